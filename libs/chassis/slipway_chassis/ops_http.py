"""The operations port: /metrics, /livez, /readyz over plain HTTP/1.1, one request a connection."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping

from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from slipway_chassis.telemetry import registry

_MAX_HEAD = 8192  # bytes
_TIMEOUT = 5.0  # seconds that a request head may take

Missing = Callable[[], Mapping[str, str]]
"""What the process misses: name of the check and what it said. Empty: nothing."""


class OpsServer:
    """Serves the operations port until closed. /readyz is 503 while something is `missing`, and names both."""

    def __init__(self, missing: Missing, degraded: Missing) -> None:
        self._missing = missing
        self._degraded = degraded
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; answers with the bound port. OSError if the address is taken."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_MAX_HEAD)
        return self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that is slow, too long or gone gets no answer.
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                status, content_type, body = self._answer(head.split(b"\r\n", 1)[0].decode("latin-1"))
                writer.write(
                    f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
                    "connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def _answer(self, request_line: str) -> tuple[str, str, bytes]:
        method, _, rest = request_line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if method != "GET":
            return "405 Method Not Allowed", "text/plain", b"only GET\n"
        match path:
            case "/metrics":
                return "200 OK", CONTENT_TYPE_LATEST, generate_latest(registry)
            case "/livez":
                return "200 OK", "application/json", b'{"status":"ok"}\n'
            case "/readyz":
                missing, degraded = dict(self._missing()), dict(self._degraded())
                status = "503 Service Unavailable" if missing else "200 OK"
                word = "not ready" if missing else "degraded" if degraded else "ok"
                body = {"status": word, "missing": missing, "degraded": degraded}
                return status, "application/json", json.dumps(body).encode() + b"\n"
            case _:
                return "404 Not Found", "text/plain", b"not found\n"
