"""Connections of a pod's programs to the egress proxy: each is one to the proxy's socket here, by way of the agent."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from slipway_tools.sandbox.kubernetes import frames

Send = Callable[[bytes], Awaitable[None]]


class _Connection:
    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes] = asyncio.Queue()
        self.waiting = 0  # bytes in `incoming`
        self.under_way = 0  # bytes that were sent and not yet taken
        self.taken = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Doors:
    """The connections of one sandbox. What the agent says is untrusted: they are bounded in number and in bytes."""

    def __init__(self, folder: Path, send: Send) -> None:
        self._socket = folder / "proxy.sock"
        self._send = send
        self._open: dict[int, _Connection] = {}

    def heard(self, kind: bytes, number: int, content: bytes) -> None:
        """Take a frame about a connection; raises ValueError for what no agent would send."""
        if kind == b"n":
            if number in self._open or len(self._open) >= frames.MOST_CONNECTIONS:
                raise ValueError("a connection beyond the bounds")
            connection = self._open[number] = _Connection()
            connection.task = asyncio.create_task(self._serve(number, connection))
            return
        connection = self._open.get(number)
        if connection is None:
            return  # it was closed from here meanwhile
        if kind == b"d":
            connection.waiting += len(content)
            if connection.waiting > frames.WINDOW:
                raise ValueError("more of a connection than is taken")
            connection.incoming.put_nowait(content)
        elif kind == b"w":
            connection.under_way -= int.from_bytes(content, "big")
            connection.taken.set()
        elif kind == b"x":
            self._drop(number)

    def close(self) -> None:
        """Cut all of them."""
        for number in list(self._open):
            self._drop(number)

    def _drop(self, number: int) -> None:
        connection = self._open.pop(number, None)
        if connection is not None and connection.task is not None:
            connection.task.cancel()

    async def _serve(self, number: int, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(self._socket)
            inward = asyncio.create_task(self._inward(number, connection, writer))
            try:
                await self._outward(number, connection, reader)
            finally:
                inward.cancel()
                writer.close()
        if self._open.get(number) is connection:
            del self._open[number]
            await self._send(frames.frame(b"x", connection=number))

    async def _inward(self, number: int, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = await connection.incoming.get()
                writer.write(data)
                await writer.drain()
                connection.waiting -= len(data)
                await self._send(frames.frame(b"w", len(data).to_bytes(4, "big"), number))

    async def _outward(self, number: int, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(frames.CHUNK):
            while connection.under_way + len(data) > frames.WINDOW:
                connection.taken.clear()
                await connection.taken.wait()
            connection.under_way += len(data)
            await self._send(frames.frame(b"d", data, number))
