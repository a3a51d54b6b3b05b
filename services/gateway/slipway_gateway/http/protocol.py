"""Bounds on what an HTTP/1.1 connection may cost before a request is even known.

uvicorn's httptools protocol takes any number and size of headers and waits for the end of a head without a limit; this
subclass bounds size, number and time.
"""

import asyncio
import json
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from slipway_gateway.http.calls import CONNECTION_SCOPE_KEY

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
MAX_URL_BYTES: Final = 8 * 1024
HEAD_TIMEOUT_SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


class _HeadRefused(Exception):
    """Raised through the parser to stop it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection, with a bounded request head."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._head_bytes = self._header_bytes = 0
        self._refusal: tuple[int, str] = (400, "the request is not valid HTTP/1.1")
        self.is_lost = False
        self.on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects and says nothing has the time of a request head, too."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing may fire after the end."""
        self._disarm()
        super().connection_lost(exc)
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Counts what an unfinished head costs: a single long header reaches no callback before its end."""
        if self._is_between_requests() and self._head_timer is None:
            self._arm()
        began_before = self._in_head
        super().data_received(data)
        if self._in_head and began_before and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refusal = (431, f"the request head is larger than {MAX_HEAD_BYTES} bytes")
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self.scope[CONNECTION_SCOPE_KEY] = self  # type: ignore[typeddict-unknown-key]
        self._in_head = True
        self._head_bytes = self._header_bytes = 0
        if self._head_timer is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        """Bounds the request target."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(414, f"the request target is longer than {MAX_URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bounds number and size. Trailers come here too, after the head: they are dropped, for nothing reads them and
        they must not slip into the headers of a request that is already being answered."""
        if not self._in_head:
            return
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._refuse(431, f"the request has more than {MAX_HEADERS} headers")
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > MAX_HEAD_BYTES:
            self._refuse(431, f"the request head is larger than {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """The head is whole: from here on the body's own limits hold."""
        self._in_head = False
        self._disarm()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers with a problem, then closes: what follows on the connection cannot be understood."""
        del msg
        if self.transport.is_closing():
            return
        status, detail = self._refusal
        trace_id = secrets.token_hex(16)
        log.info("http.head_refused", status=status, detail=detail, trace_id=trace_id)
        body = json.dumps(
            {
                "type": "https://slipway.dev/problems/http-malformed",
                "title": HTTPStatus(status).phrase,
                "status": status,
                "detail": detail,
                "code": "HTTP_MALFORMED",
                # No request is known yet that a trace could tell of; the id ties the answer to the line in the log.
                "trace_id": trace_id,
            }
        ).encode()
        head = b"content-type: application/problem+json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        # In the middle of an answer to an earlier request nothing sensible can be said any more.
        if self._is_between_requests():
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()

    def _is_between_requests(self) -> bool:
        # uvicorn declares the cycle without saying that it is None before the first request.
        cycle = cast(RequestResponseCycle | None, self.cycle)
        return cycle is None or cycle.response_complete

    def _refuse(self, status: int, detail: str) -> None:
        self._refusal = (status, detail)
        raise _HeadRefused(detail)

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_SECONDS, self._head_took_too_long)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refusal = (408, f"the request head was not whole after {HEAD_TIMEOUT_SECONDS:g} seconds")
            self.send_400_response("")
        else:
            self.transport.close()
