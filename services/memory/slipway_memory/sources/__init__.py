"""Governed data sources: databases that are queried within what is declared and what policy permits."""
