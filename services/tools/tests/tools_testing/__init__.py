"""What the tests of the tools service share."""
