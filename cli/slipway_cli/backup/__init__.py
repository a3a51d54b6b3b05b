"""Backups of a whole installation, and new installations made of them."""
