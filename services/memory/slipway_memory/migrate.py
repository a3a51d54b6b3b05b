"""`python -m slipway_memory.migrate` brings the database of this service up to date, and ends."""

from slipway_chassis.schema import Schema, run_migrations

SCHEMA = Schema("memory", ("outbox", "idempotency", "effects", "subject_keys"), extensions=("vector",))

if __name__ == "__main__":
    run_migrations(SCHEMA)
