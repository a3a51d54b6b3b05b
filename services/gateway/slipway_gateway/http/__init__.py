"""The HTTP API: protocol bounds, problems, routes. Everything behind it is called over gRPC."""
