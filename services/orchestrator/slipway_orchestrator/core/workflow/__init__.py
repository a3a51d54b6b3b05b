"""Workflow agents: declared steps, within one another."""
