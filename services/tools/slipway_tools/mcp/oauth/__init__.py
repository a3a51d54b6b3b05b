"""Logins at the authorization servers of MCP servers (revisions 2025-06-18 and 2025-11-25 of MCP's authorization)."""
