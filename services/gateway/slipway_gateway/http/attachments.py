"""Downloads are attachments: an uploaded page can never run in a browser under the gateway's address."""

from urllib.parse import quote


def content_disposition(filename: str) -> str:
    """The header's value for any name (RFC 6266, 8187)."""
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
