"""HTTP/1.1 to one provider over connections that are kept: POST requests, answers read piece by piece.

A general client spends a millisecond of processor time on a request, most of it on what is not needed here: redirects,
cookies, proxies, other methods, other protocols. httptools (llhttp, the parser of Node) does the parsing.
"""

import asyncio
import re
import ssl
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import certifi
import httptools

CONNECT_SECONDS: Final = 5.0
MOST_CONNECTIONS: Final = 256
_MOST_IDLE = 64
_IDLE_SECONDS = 30.0
_MOST_HEAD_BYTES = 64 * 1024
_HIGH_WATER = 256 * 1024
"""Bytes that were received and not yet read, from which on no more are received."""
_DECODED_PIECE = 256 * 1024
_NO_HEADER_VALUE = re.compile(r"[^\t\x20-\x7e]")


class TransportFailure(Exception):
    """Nothing, or not everything, of an answer came; the message names the kind of failure."""


class NotReached(TransportFailure):
    """No connection could be made."""


class BrokenOff(TransportFailure):
    """The connection ended, or what came is not HTTP/1.1, before the answer was whole."""


class Connections:
    """Connections to the server of `base_url`, with the headers and query parameters that each request has."""

    def __init__(self, base_url: str, headers: Mapping[str, str], parameters: Mapping[str, str]) -> None:
        parts = urlsplit(base_url)
        tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if tls else 80)
        self._tls = _tls_context() if tls else None
        self._path = parts.path.rstrip("/")
        self._query = f"?{urlencode(parameters)}" if parameters else ""
        host = f"[{self._host}]" if ":" in self._host else self._host
        fixed = {"host": f"{host}:{parts.port}" if parts.port else host, "accept": "*/*", **headers}
        self._is_sendable = not any(_NO_HEADER_VALUE.search(value) for value in fixed.values())
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._heads: dict[str, bytes] = {}
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)
        self._open: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def post(self, path: str, body: bytes) -> "Answer":
        """Send a JSON body to `path` below the base URL; the answer's head is here. Close it after use.

        Raises NotReached, BrokenOff.
        """
        if not self._is_sendable:
            raise NotReached("InvalidHeader")
        if self._places.locked():
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._places.acquire()
            except TimeoutError:
                raise NotReached("PoolTimeout") from None
        else:
            await self._places.acquire()
        try:
            kept = self._reusable()
            connection = kept or await self._connect()
        except BaseException:
            self._places.release()
            raise
        answer = Answer(self, connection)
        try:
            connection.send(self._head(path), body)
            await connection.head()
        except BrokenOff:
            answer.close()
            if kept is not None and connection.is_unanswered:
                # The server closed a kept connection just as the request was sent: nothing was wrong with it.
                return await self._post_anew(path, body)
            raise
        except BaseException:
            answer.close()
            raise
        return answer

    async def _post_anew(self, path: str, body: bytes) -> "Answer":
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()
        return await self.post(path, body)

    def give_back(self, connection: "_Connection") -> None:
        """Keep a connection for the next request if it is fit for one, close it otherwise."""
        self._places.release()
        if not connection.is_reusable or len(self._idle) >= _MOST_IDLE:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(_IDLE_SECONDS, self._close_idle)

    def forget(self, connection: "_Connection") -> None:
        """The connection has ended."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close all connections, whatever they do."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.abort()

    def _head(self, path: str) -> bytes:
        head = self._heads.get(path)
        if head is None:
            line = f"POST {self._path}/{path}{self._query} HTTP/1.1\r\n"
            rest = f"{self._headers}content-type: application/json\r\ncontent-length: "
            head = self._heads[path] = (line + rest).encode("ascii")
        return head

    def _reusable(self) -> "_Connection | None":
        # The one used last: it is the least likely to be closed by the other side just now.
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise NotReached("ConnectTimeout") from None
        except (OSError, UnicodeError) as error:
            raise NotReached("ConnectError") from error
        self._open.add(connection)
        return connection

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        for connection in list(self._idle):
            if loop.time() - connection.idle_since >= _IDLE_SECONDS:
                self._idle.remove(connection)
                connection.abort()
        if self._idle:
            self._sweep = loop.call_later(_IDLE_SECONDS, self._close_idle)


class Answer:
    """An answer whose head is here."""

    def __init__(self, connections: Connections, connection: "_Connection") -> None:
        self._connections = connections
        self._connection: _Connection | None = connection

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._under_way.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, names in lower case."""
        return self._under_way.headers

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it comes, without its content coding. Raises BrokenOff."""
        connection = self._under_way
        coding = connection.headers.get("content-encoding", "identity").strip().lower()
        if coding in ("identity", ""):
            while piece := await connection.piece():
                yield piece
            return
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise BrokenOff("unknown content coding")
        decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        try:
            while piece := await connection.piece():
                # In bounded steps: what is small may become large.
                while piece:
                    yield decoder.decompress(piece, _DECODED_PIECE)
                    piece = decoder.unconsumed_tail
            yield decoder.flush()
        except zlib.error as error:
            raise BrokenOff("damaged content coding") from error
        if not decoder.eof:
            raise BrokenOff("damaged content coding")

    def close(self) -> None:
        """Let go of the connection: kept if the answer was read to its end, cut off otherwise."""
        if self._connection is not None:
            self._connections.give_back(self._connection)
            self._connection = None

    @property
    def _under_way(self) -> "_Connection":
        if self._connection is None:
            raise RuntimeError("the answer was closed")
        return self._connection


class _Connection(asyncio.Protocol):
    """One connection, with one request under way at most."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._transport: Any = None
        self._parser: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BrokenOff | None = None
        self._pieces: deque[bytes] = deque()
        self._unread = self._unparsed = self._header_bytes = 0
        self._head_done = self._complete = False
        self._lost = False
        self._fit = True
        self.idle_since = 0.0
        self.status = 0
        self.headers: dict[str, str] = {}

    @property
    def is_reusable(self) -> bool:
        """True when a request may be sent: the last answer was whole, and the other side keeps the connection."""
        return self._fit and not self._lost and (self._complete or self._parser is None)

    @property
    def is_unanswered(self) -> bool:
        """True when not a byte of the answer to the last request has come."""
        return not self._head_done and self._unparsed == 0

    def send(self, head: bytes, body: bytes) -> None:
        """Begin a request."""
        self._parser = httptools.HttpResponseParser(self)
        self._pieces.clear()
        self._unread = self._unparsed = self._header_bytes = 0
        self._head_done = self._complete = False
        self.headers = {}
        self._transport.write(b"%b%d\r\n\r\n%b" % (head, len(body), body))

    async def head(self) -> None:
        """Wait for the answer's status and headers. Raises BrokenOff."""
        while not self._head_done:
            await self._wait()

    async def piece(self) -> bytes:
        """The next piece of the body; empty at its end. Raises BrokenOff."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        piece = b"".join(self._pieces) if len(self._pieces) > 1 else self._pieces[0]
        self._pieces.clear()
        if self._unread > _HIGH_WATER and not self._lost:
            self._transport.resume_reading()
        self._unread = 0
        return piece

    def abort(self) -> None:
        """End the connection at once."""
        self._fit = False
        self._transport.abort()

    async def _wait(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, reason: str) -> None:
        self._fit = False
        self._failure = self._failure or BrokenOff(reason)
        self._wake()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._complete:
            # Nobody asked for it.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("not HTTP/1.1")
            self.abort()
            return
        if not self._head_done:
            # A single header without an end reaches no callback.
            self._unparsed += len(data)
            if self._unparsed > _MOST_HEAD_BYTES:
                self._fail("head too large")
                self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._connections.forget(self)
        if self._parser is None or self._complete:
            return
        sized = "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower()
        if self._head_done and exc is None and not sized and self._fit:
            # An answer without a length ends with its connection (RFC 9112, 6.3).
            self._complete = True
            self._wake()
        else:
            self._fail("connection lost")

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            # A second answer to one request.
            self._fit = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _MOST_HEAD_BYTES:
            raise BrokenOff("head too large")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if not self._head_done:
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._complete:
            return
        if status < 200:
            # An interim answer: the real one follows.
            self.headers = {}
            return
        self.status = status
        self._head_done = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        if self._complete:
            return
        self._pieces.append(body)
        if self._unread <= _HIGH_WATER < self._unread + len(body):
            self._transport.pause_reading()
        self._unread += len(body)
        self._wake()

    def on_message_complete(self) -> None:
        if self._head_done and not self._complete:
            self._complete = True
            self._fit = self._fit and self._parser.should_keep_alive()
            self._wake()


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
