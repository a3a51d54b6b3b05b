"""Test support: small real executors, and the orchestrator as processes."""
