"""A provider of models over real HTTP that behaves, or misbehaves, as its scripts say."""

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Script = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request at the scripted provider: what came, and ways to answer."""

    def __init__(self, path: str, headers: dict[str, str], body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def json(self, payload: Any, status: int = 200, headers: str = "") -> None:
        """A JSON answer."""
        await self.text(json.dumps(payload).encode(), status, headers)

    async def text(self, body: bytes, status: int = 200, headers: str = "") -> None:
        """An answer of these bytes, called JSON."""
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
        await self.raw(head.encode() + body)

    async def open_stream(self) -> None:
        """The head of a stream that ends with its connection."""
        await self.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")

    async def event(self, payload: Any) -> None:
        """One server-sent event."""
        await self.raw(b"data: " + json.dumps(payload).encode() + b"\n\n")

    async def delta(self, finish: str | None = None, **delta: Any) -> None:
        """One chunk of a chat completion."""
        await self.event({"model": "scripted-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    async def gone(self) -> None:
        """Wait until the router closes the connection."""
        while not self._writer.is_closing():
            await self.raw(b": still here\n\n")
            await asyncio.sleep(0.02)
        raise ConnectionResetError


@dataclass
class Provider:
    """A provider over real HTTP whose models behave as the script of their name says."""

    scripts: dict[str, Script]
    port: int = 0
    seen: dict[str, list[Exchange]] = field(default_factory=lambda: defaultdict(list))
    hung_up: dict[str, threading.Event] = field(default_factory=lambda: defaultdict(threading.Event))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one after the other, a stream as the last."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))))
                exchange = Exchange(first.split()[1], headers, body, writer)
                # Gemini names the model in the path.
                model = body.get("model") or exchange.path.partition("models/")[2].partition(":")[0]
                # "script@label": the label tells the models of one script apart.
                script = model.partition("@")[0]
                self.seen[model].append(exchange)
                try:
                    await self.scripts[script](exchange)
                except ConnectionError:
                    self.hung_up[model].set()
                    raise
                if body.get("stream"):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextmanager
def running(provider: Provider) -> Generator[Provider]:
    """Serve in a thread with a loop of its own, so that tests of any loop can use it."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stopping = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
        provider.port = server.sockets[0].getsockname()[1]
        started.set()
        await stopping.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    started.wait()
    try:
        yield provider
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()
