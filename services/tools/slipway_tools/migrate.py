"""`python -m slipway_tools.migrate` brings the database of this service up to date, and ends."""

from slipway_chassis.schema import Schema, run_migrations

SCHEMA = Schema("tools", ("outbox", "idempotency", "effects", "subject_keys"))

if __name__ == "__main__":
    run_migrations(SCHEMA)
