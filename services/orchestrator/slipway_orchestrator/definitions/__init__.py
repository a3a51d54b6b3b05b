"""Agent definitions: from YAML with positions to checked, typed values."""
