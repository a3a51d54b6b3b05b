"""Real servers for tests: each one in a temporary folder of its own, on a port chosen by the kernel."""
