"""Documents to text blocks, and blocks to chunks. Runs in a bounded process of its own: see `sandbox.py`."""
