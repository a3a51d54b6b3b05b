"""Server-sent events, read strictly: bounded lines, bounded stream."""

from collections.abc import AsyncIterator

from slipway_router.errors import ProviderProtocol

MAX_EVENT_BYTES = 1024 * 1024
MAX_STREAM_BYTES = 64 * 1024 * 1024


async def data_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Payloads of the `data` fields of `chunks`, an event each (WHATWG HTML, 9.2.6).

    Comments and other fields are left out, and an event that the stream cuts off is dropped. Raises ProviderProtocol
    for an event or a stream beyond the limits.
    """
    buffer = bytearray()
    data: list[bytes] = []
    size = total = 0
    async for chunk in chunks:
        total += len(chunk)
        buffer += chunk
        if total > MAX_STREAM_BYTES:
            raise ProviderProtocol(f"the provider's stream is longer than {MAX_STREAM_BYTES} bytes")
        *lines, rest = bytes(buffer).replace(b"\r\n", b"\n").split(b"\n")
        # A trailing CR may be the first half of CRLF: it stays with the rest until the next chunk is here.
        buffer = bytearray(rest)
        if len(buffer) + size > MAX_EVENT_BYTES:
            raise ProviderProtocol(f"the provider sent an event of more than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            if not line:
                if data:
                    yield b"\n".join(data)
                data, size = [], 0
            elif line.startswith(b"data:"):
                piece = line[5:].removeprefix(b" ")
                data.append(piece)
                size += len(piece)
                if size > MAX_EVENT_BYTES:
                    raise ProviderProtocol(f"the provider sent an event of more than {MAX_EVENT_BYTES} bytes")
