"""Tool registry and sandboxes."""
