"""Runs the HTTP application on uvicorn, in the event loop of the service."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

import structlog
import uvicorn
from slipway_chassis.tls import Certificates
from starlette.types import ASGIApp

from slipway_gateway.http.protocol import BoundedHttpProtocol

KEEP_ALIVE_SECONDS: Final = 15
log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Signals belong to the service's own life cycle."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Begins the end: no new connections, requests in flight get their time."""
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        """Ticks once a second, for the Date header; uvicorn's own loop wakes the process ten times as often."""
        while not self.should_exit:
            await self.on_tick(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 1.0)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield


def listen(address: str) -> socket.socket:
    """A socket that is bound to `host:port`. Raises OSError with a sentence."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        if not port.isdigit():
            raise ValueError("the port is missing")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        # Bound without listening, a second process could bind the same address too.
        listener.listen(2048)
    except (OSError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OSError(f"cannot listen on {address}: {reason}") from error
    return listener


class HttpServer:
    """Serves an application on a bound socket until it is cancelled; then requests in flight get their time."""

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        *,
        grace: float,
        stopping: asyncio.Event,
        certificates: Certificates | None = None,
    ) -> None:
        """`grace` in seconds; `stopping` is set when the end begins, so that long streams can end by themselves.

        With `certificates` it is https.
        """
        config = uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(grace)),
            ssl_context_factory=(lambda _config, _default: certificates.listener) if certificates else None,
        )
        self._server = _Server(config)
        self._listener = listener
        self._stopping = stopping

    async def run(self) -> None:
        """Serves; the background task of the service."""
        log.info("http.started", address=f"{self._listener.getsockname()[0]}:{self._listener.getsockname()[1]}")
        serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            self._stopping.set()
            self._server.stop()
            await serving
            raise
