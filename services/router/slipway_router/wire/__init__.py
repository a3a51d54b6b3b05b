"""OpenAI's wire format, the client's side."""
