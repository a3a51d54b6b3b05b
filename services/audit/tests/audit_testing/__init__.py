"""What the tests of the audit service share."""
