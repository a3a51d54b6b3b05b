"""Typed Python client of the Slipway HTTP API."""
