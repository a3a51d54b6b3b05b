"""The MCP server at `/mcp`: the caller's tools, agents and knowledge for any MCP client."""
