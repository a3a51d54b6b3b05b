"""What the orchestrator keeps in PostgreSQL. The only modules that know SQL."""
