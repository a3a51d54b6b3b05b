"""The routes that follow OpenAI's wire format."""
