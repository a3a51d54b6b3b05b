"""Two small models behind OpenAI's wire format on loopback: SmolLM2-135M for chat, all-MiniLM-L6-v2 for embeddings.

They make the platform work on one machine without a provider. They are an ordinary provider to the router: nothing in
it knows that this process is its neighbour.
"""
