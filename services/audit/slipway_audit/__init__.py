"""The tamper-evident log and its evidence."""
