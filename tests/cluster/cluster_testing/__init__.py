"""What the tests on a cluster have in common."""
