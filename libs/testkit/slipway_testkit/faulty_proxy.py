"""A TCP proxy that fails as networks do: answers get lost, connections break, nothing gets through."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Mode = Literal["forward", "lose-answers", "black-hole", "refuse", "http-503"]
"""`lose-answers`: what clients send arrives, what comes back does not. `black-hole`: nothing arrives either way, and
connections stay open. `refuse`: connections are cut as they are made. `http-503`: new connections get the answer of an
HTTP server that has too much to do, and are closed."""

_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class FaultyProxy:
    """Between clients and one server."""

    server: tuple[str, int] | Path
    """Host and port, or a Unix socket."""
    mode: Mode = "forward"
    delay: float = 0
    """Seconds that every piece takes longer, either way."""
    address: str = ""
    """Where clients connect: `127.0.0.1:port`."""
    lost: int = 0
    """Pieces of answers that were lost."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    def cut(self) -> None:
        """Break all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def fail(self, mode: Mode, seconds: float) -> None:
        """Fail in one way for so long, then break what was open and work again."""
        self.mode = mode
        await asyncio.sleep(seconds)
        self.mode = "forward"
        self.cut()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        if self.mode == "refuse":
            writer.transport.abort()
            return
        if self.mode == "http-503":
            with contextlib.suppress(OSError):
                await reader.read(65536)
                writer.write(_BUSY)
                await writer.drain()
            writer.close()
            return
        upstream: asyncio.StreamWriter | None = None
        self._writers.add(writer)
        try:
            if isinstance(self.server, Path):
                answers, upstream = await asyncio.open_unix_connection(self.server)
            else:
                answers, upstream = await asyncio.open_connection(*self.server)
            self._writers.add(upstream)
            both = {
                asyncio.create_task(self._pump(reader, upstream, answers=False)),
                asyncio.create_task(self._pump(answers, writer, answers=True)),
            }
            _, left = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.wait(both)
        except OSError:
            pass  # the server is away: the client finds its connection closed
        finally:
            for one in (writer, upstream):
                if one is not None:
                    self._writers.discard(one)
                    one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.mode == "black-hole" or (answers and self.mode == "lose-answers"):
                    self.lost += answers
                    continue  # a gap in a stream cannot be mended: the connection is cut when the fault ends
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def faulty_proxy(server: tuple[str, int] | Path) -> AsyncGenerator[FaultyProxy]:
    """A proxy before a server (host and port, or a Unix socket), on a free port of this machine."""
    proxy = FaultyProxy(server)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listening.close()
        proxy.cut()
        await listening.wait_closed()
