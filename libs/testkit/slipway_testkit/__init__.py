"""Pytest fixtures over real servers, shared by all test suites."""
