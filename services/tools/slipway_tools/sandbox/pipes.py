"""Pipes to and from a sandbox, on the event loop, without a transport's or a stream's overhead."""

import asyncio
import contextlib
import os
from collections.abc import Callable

_CHUNK = 1 << 16


class PipeEnded(Exception):
    """The other side of a pipe is gone."""


class Inlet:
    """Hands on what comes through a pipe as it comes, until its end."""

    def __init__(
        self, descriptor: int, sink: Callable[[bytes], None], at_end: Callable[[], None] | None = None
    ) -> None:
        os.set_blocking(descriptor, False)
        self.sink = sink
        self.ended = False
        self._at_end = at_end
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._take)

    def _take(self) -> bool:
        """Hand on one piece; False when there is none."""
        try:
            chunk = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._descriptor)
            self.ended = True
            if self._at_end is not None:
                self._at_end()
            return False
        self.sink(chunk)
        return True

    def drain(self, most: int) -> None:
        """Hand on what is in the pipe now, at most about `most` bytes: its writers are dead, so that is all."""
        for _ in range(most // _CHUNK + 64):
            if self.ended or not self._take():
                return

    def close(self) -> None:
        """Stop, and close the descriptor; again: nothing."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Report:
    """The report channel, read line by line and piece by piece. What comes is untrusted: every read is bounded."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Add what came."""
        self._buffer += chunk
        self._more.set()

    def finish(self) -> None:
        """Nothing more will come: the sandbox is gone."""
        self._ended = True
        self._more.set()

    async def _grow(self) -> None:
        if self._ended:
            raise PipeEnded
        self._more.clear()
        await self._more.wait()

    async def line(self, most: int = 256) -> bytes:
        """The next line without its end; raises PipeEnded, or ValueError for one longer than `most`."""
        while (at := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > most:
                raise ValueError("a line of the report is too long")
            await self._grow()
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 1]
        return line

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes; raises PipeEnded."""
        while len(self._buffer) < size:
            await self._grow()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


async def send(descriptor: int, parts: list[bytes]) -> None:
    """Write all of `parts` to a pipe that does not block; raises PipeEnded."""
    loop = asyncio.get_running_loop()
    for part in parts:
        view = memoryview(part)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await _writable(loop, descriptor)
            except BrokenPipeError:
                raise PipeEnded from None


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        with contextlib.suppress(OSError):
            loop.remove_writer(descriptor)
