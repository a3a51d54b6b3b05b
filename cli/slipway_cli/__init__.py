"""The `slipway` command and the one-machine supervisor."""
