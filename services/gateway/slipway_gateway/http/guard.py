"""The outermost layer: what every request passes, whichever route it is for."""

import re
import time
from collections.abc import Collection
from typing import Final, cast

import structlog
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis import telemetry
from slipway_chassis.errors import Internal, SlipwayError
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipway_gateway.http.bodies import BoundedReceive, declared_length
from slipway_gateway.http.problems import problem_response
from slipway_gateway.http.rejections import HostNotAllowed, HttpMalformed

BODY_SCOPE_KEY: Final = "slipway.body"

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_TRACE_HEADERS = frozenset({b"traceparent", b"tracestate"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_requests = Counter(
    "slipway_http_requests", "HTTP requests", ["method", "route", "status"], registry=telemetry.registry
)
_durations = Histogram(
    "slipway_http_duration_seconds",
    "Duration of HTTP requests, streams included",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=telemetry.registry,
)
_in_flight = Gauge(
    "slipway_http_in_flight", "HTTP requests that are being answered, streams included", registry=telemetry.registry
)
log = structlog.get_logger(__name__)


class Guard:
    """ASGI middleware: trace, metrics, Host check, body bounds, and a problem for whatever goes wrong."""

    def __init__(self, app: ASGIApp, *, allowed_hosts: Collection[str], max_body_bytes: int) -> None:
        self._app = app
        self._any_host = "*" in allowed_hosts
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; lifespan events pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, complete = time.perf_counter(), 0, False
        _in_flight.inc()

        async def counted(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-content-type-options", b"nosniff"))
            elif message["type"] == "http.response.body":
                complete = not message.get("more_body", False)
            await send(message)

        headers = cast(list[tuple[bytes, bytes]], scope["headers"])
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name in _TRACE_HEADERS]
        with telemetry.span(
            f"{scope['method']} {scope['path'][:120]}",
            kind=SpanKind.SERVER,
            parent=telemetry.extract(pairs),
            attributes={"http.request.method": scope["method"]},
        ) as span:
            try:
                self._check(scope, headers)
                bounded = BoundedReceive(receive, self._max_body_bytes, declared_length(headers))
                scope[BODY_SCOPE_KEY] = bounded
                await self._app(scope, bounded, counted)
            except ClientDisconnect:
                status = status or 499
            except Exception as error:
                if not isinstance(error, SlipwayError):
                    log.error("http.failed", path=scope["path"], exc_info=error)
                if status == 0:
                    await self._answer(error, scope, receive, counted)
                elif not complete:
                    # Part of the answer is sent: only a broken connection tells the client that it is not whole.
                    raise
            finally:
                route = getattr(scope.get("route"), "path", "unmatched")
                seconds = time.perf_counter() - started
                _requests.labels(scope["method"], route, str(status or 499)).inc()
                _durations.labels(route).observe(seconds)
                _in_flight.dec()
                span.update_name(f"{scope['method']} {route}")
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status or 499)
                tell = log.warning if status >= 500 else log.debug
                tell(
                    "http.request", method=scope["method"], route=route, status=status or 499, ms=round(seconds * 1000)
                )

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        known = error if isinstance(error, SlipwayError) else Internal("unexpected error")
        response = problem_response(known, scope["path"], {"connection": "close"})
        await response(scope, receive, send)

    def _check(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
        """RFC 9112, 3.2: exactly one, well-formed Host; and it must be ours, or a browser can be led here by DNS."""
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise HttpMalformed("the request must have exactly one Host header", field="Host")
        match = _HOST.fullmatch(hosts[0].decode("latin-1"))
        if match is None:
            raise HttpMalformed("the Host header is not a host", field="Host")
        if not self._any_host and match[1].lower() not in self._hosts:
            raise HostNotAllowed("this server does not serve that host", field="Host")
        if _CONTROL.search(scope["path"]):
            raise HttpMalformed("the path holds a control character")
