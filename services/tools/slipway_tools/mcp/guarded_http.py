"""The HTTP that the MCP client speaks: every request to a checked address, every answer bounded.

The client library follows what a server tells it: addresses in metadata, redirects on the same origin, streams to take
up again. All of that passes here, so that no server can lead this service to an address that is not public, keep it
reading, or make it unfold a compressed answer.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx2

from slipway_tools.address import AddressNotAllowed, AllowList, HostUnreachable, checked_addresses
from slipway_tools.mcp.peer import EXCHANGE_LIMIT

_CONNECT_SECONDS = 10.0
_GOODBYE_SECONDS = 2.0
_TRIED_ADDRESSES = 3
_REQUESTS_LIMIT = 64  # of one exchange: lists, calls, tokens, streams taken up again
_EVENTS_LIMIT = 4096  # of one exchange: each takes longer to read than its bytes to carry
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Exceeded(Exception):
    """The server answers more than one exchange may carry, or asks for too many requests."""


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of one exchange; `fault` is the first thing that was refused.

    The client library tells some failures in other words or not at all, so whoever uses this looks at `fault` first.
    """

    def __init__(self, allowed: AllowList, tls: ssl.SSLContext, limit: int = EXCHANGE_LIMIT) -> None:
        """`limit` is in bytes, of all answers together."""
        self.fault: Exception | None = None
        self.status = 0  # of the last answer
        self._sent = 0
        self._allowed = allowed
        self._tls = tls
        self._limit = self._left = limit
        self._events = 0
        # Connections are kept by address, and two names may share one: a pool for each name.
        self._pools: dict[str, httpx2.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request to a checked address of its host."""
        try:
            if request.method == "DELETE":
                return await self._say_goodbye(request)
            return await self._send(request)
        except (AddressNotAllowed, HostUnreachable, Exceeded) as error:
            self.fault = self.fault or error
            raise httpx2.ConnectError(str(error), request=request) from error

    async def _say_goodbye(self, request: httpx2.Request) -> httpx2.Response:
        """End a session: sent when the exchange is over, perhaps because its time is, so it has little of its own."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                response = await self._send(request)
                await response.aclose()
                return httpx2.Response(response.status_code, request=request)
        return httpx2.Response(204, request=request)

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        if self.fault is not None or self._sent >= _REQUESTS_LIMIT:
            raise Exceeded(f"more than {_REQUESTS_LIMIT} requests were needed")
        url = request.url
        host = url.host.rstrip(".").lower()
        port = url.port or _DEFAULT_PORTS.get(url.scheme, 0)
        if url.scheme != "https" and (url.scheme != "http" or (host, port) not in self._allowed):
            raise AddressNotAllowed(
                f"{host}:{port} must be called with https:// unless SLIPWAY_TOOLS_HTTP_ALLOW names it"
            )
        addresses = (await checked_addresses(host, port, self._allowed))[:_TRIED_ADDRESSES]
        self._sent += 1
        pool = self._pools.get(host)
        if pool is None:
            pool = self._pools[host] = httpx2.AsyncHTTPTransport(verify=self._tls, trust_env=False)
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"accept-encoding"]
        # Nothing encoded is read: a small body could unfold without end.
        headers.append((b"Accept-Encoding", b"identity"))
        for index, address in enumerate(addresses):
            pinned = httpx2.Request(
                request.method,
                url.copy_with(host=str(address)),
                headers=headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                response = await pool.handle_async_request(pinned)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if index + 1 == len(addresses):
                    raise
                continue
            self.status = response.status_code
            return await self._bounded(response)
        raise AssertionError("unreachable")

    async def _bounded(self, response: httpx2.Response) -> httpx2.Response:
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise Exceeded("the answer is compressed although that was not asked for")
        stream = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = _BoundedStream(stream, self)
        return response

    def spend(self, part: bytes) -> None:
        """Count bytes of answers, and the blank lines that end events; raises Exceeded."""
        self._left -= len(part)
        self._events += part.count(b"\n\n") + part.count(b"\r\r") + part.count(b"\n\r\n")
        if self._left >= 0 and self._events <= _EVENTS_LIMIT:
            return
        what = f"{self._limit} bytes" if self._left < 0 else f"{_EVENTS_LIMIT} events"
        error = Exceeded(f"the server answered more than {what}")
        self.fault = self.fault or error
        raise error

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, guard: GuardedTransport) -> None:
        self._stream = stream
        self._guard = guard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            try:
                self._guard.spend(part)
            except Exceeded as error:
                raise httpx2.ReadError(str(error)) from error
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def client(transport: GuardedTransport, headers: dict[str, str], auth: Any) -> httpx2.AsyncClient:
    """A client over a guarded transport. Reading has no limit of its own: the exchange as a whole has one."""
    return httpx2.AsyncClient(
        transport=transport,
        headers={"User-Agent": "slipway-tools", **headers},
        auth=auth,
        timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
        follow_redirects=False,
        trust_env=False,
    )
