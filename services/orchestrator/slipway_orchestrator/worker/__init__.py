"""Workers: claim runs, perform their effects, append to their journals."""
