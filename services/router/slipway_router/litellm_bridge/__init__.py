"""Providers with a wire format of their own, through litellm's SDK in a process and an environment of its own."""
