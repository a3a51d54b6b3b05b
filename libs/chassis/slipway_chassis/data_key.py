"""The form of the setting DATA_KEY."""

import base64

_KEY_BYTES = 32


def parse_data_keys(text: str) -> list[bytes]:
    """The data keys, base64 of 32 bytes each, with commas between them. Raises ValueError."""
    keys = [base64.b64decode(part, validate=True) for part in text.split(",")]
    if any(len(key) != _KEY_BYTES for key in keys):
        raise ValueError("a data key must be 32 bytes")
    return keys
