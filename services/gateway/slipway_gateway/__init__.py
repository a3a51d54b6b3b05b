"""The gateway: HTTP door of Slipway, authentication, and the only holder of the key that signs internal tokens."""
