"""Server-sent events, read strictly: bounded lines, bounded stream."""

from collections.abc import AsyncIterator

from slipway_router.errors import ProviderProtocol

MAX_EVENT_BYTES = 1024 * 1024
MAX_STREAM_BYTES = 64 * 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def data_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Payloads of the `data` fields of `chunks`, an event each (WHATWG HTML, 9.2.6).

    Lines end with LF, CRLF or CR, and a byte order mark may stand before the first one. Comments and other fields are
    left out, and an event that the stream cuts off is dropped. Raises ProviderProtocol for an event or a stream beyond
    the limits.
    """
    buffer = bytearray()
    data: list[bytes] = []
    size = total = 0
    at_start, after_cr = True, False
    async for chunk in chunks:
        total += len(chunk)
        if total > MAX_STREAM_BYTES:
            raise ProviderProtocol(f"the provider's stream is longer than {MAX_STREAM_BYTES} bytes")
        # A line that ended with CR has ended: an LF that comes after it in the next chunk is its second half.
        fresh = chunk[1:] if after_cr and chunk[:1] == b"\n" else chunk
        after_cr = chunk[-1:] == b"\r" or (after_cr and not chunk)
        buffer += fresh.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        if lines and at_start:
            lines[0], at_start = lines[0].removeprefix(_BYTE_ORDER_MARK), False
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
