"""What the tests of the chart have in common."""
