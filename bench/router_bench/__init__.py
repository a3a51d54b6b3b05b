"""What bench/router.py needs: a provider, our processes, LiteLLM's proxy, and load."""
