"""Where passages are found by meaning and by words: the seam, and its two implementations."""
