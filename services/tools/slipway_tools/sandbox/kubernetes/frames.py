"""Frames to and from the agent in a pod (`agent.py` says what they mean). What comes is untrusted, and bounded."""

import struct
from collections.abc import Iterator

HEAD = struct.Struct(">cII")
CHUNK = 1 << 16
WINDOW = 1 << 18
MOST_CONNECTIONS = 128  # more than a door takes: that is what refuses


def frame(kind: bytes, content: bytes | memoryview = b"", connection: int = 0) -> bytes:
    """One frame; `content` at most CHUNK bytes."""
    return HEAD.pack(kind, connection, len(content)) + content


def frames(kind: bytes, content: bytes) -> Iterator[bytes]:
    """As many as `content` needs."""
    view = memoryview(content)
    for at in range(0, len(content), CHUNK):
        yield frame(kind, view[at : at + CHUNK])


class Frames:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
        """Kind, connection and content of each frame that is whole now; raises ValueError for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            kind, connection, size = HEAD.unpack_from(self._buffer)
            if size > CHUNK:
                raise ValueError("a frame beyond its bounds")
            if len(self._buffer) < HEAD.size + size:
                return
            content = bytes(self._buffer[HEAD.size : HEAD.size + size])
            del self._buffer[: HEAD.size + size]
            yield kind, connection, content
