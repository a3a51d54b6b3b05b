"""Is what a stack needs there and fit for it? `slipway up --servers` and `slipway doctor` ask."""
