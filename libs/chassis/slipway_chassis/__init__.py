"""What every Slipway service stands on: lifecycle, identity, telemetry, errors, bus, Postgres, settings."""
