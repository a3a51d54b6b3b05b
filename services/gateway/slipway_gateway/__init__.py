"""HTTP, authentication, internal tokens."""
