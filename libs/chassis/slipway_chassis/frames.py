"""Messages on a TCP connection: each after its length in four bytes, big-endian (slipway.link.v1)."""

import socket
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.message import Message

from slipway_chassis.channel import MAX_MESSAGE_BYTES

PREFACE: Final = b"slipway-link/1\n"
_MOST_FRAME_BYTES = MAX_MESSAGE_BYTES + 1024 * 1024


class FrameError(Exception):
    """What came is no frame."""


def frame(message: Message) -> bytes:
    """A message as it goes over the connection."""
    data = message.SerializeToString()
    return len(data).to_bytes(4, "big") + data


class Frames:
    """Cuts what comes from a connection into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def take(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole with `data`. Raises FrameError."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if size > _MOST_FRAME_BYTES:
                raise FrameError
            if len(buffer) - at - 4 < size:
                break
            yield bytes(buffer[at + 4 : at + 4 + size])
            at += 4 + size
        del buffer[:at]


def keep_alive(transport: Any) -> None:
    """Find out within a minute that the other machine is gone."""
    connection = transport.get_extra_info("socket")
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ):
        connection.setsockopt(level, option, value)
