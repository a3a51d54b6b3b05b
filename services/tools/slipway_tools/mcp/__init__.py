"""MCP servers whose tools agents can call, each as it was approved and not otherwise."""
