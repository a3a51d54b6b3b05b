"""A port of this machine that a browser comes back to after a sign-in (RFC 8252, 7.3)."""

import secrets
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

_SECONDS: Final = 300.0
_DONE_PAGE: Final = b"<!doctype html><title>Slipway</title><p>Signed in; this page can be closed.</p>"
_FAILED_PAGE: Final = b"<!doctype html><title>Slipway</title><p>Not signed in; the command line tells why.</p>"


class NobodyCameError(Exception):
    """No browser came back in five minutes."""


class Listener:
    """A port of loopback that a browser comes back to."""

    def __init__(self) -> None:
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                listener.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
                """A browser's address holds the code."""

        self._given: dict[str, str] = {}
        self._state = ""
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._server.timeout = 1.0
        self.port = self._server.server_port
        self.address = f"http://127.0.0.1:{self.port}/callback"

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.server_close()

    def wait(self, state: str) -> dict[str, str]:
        """What the provider sent back with `state`. Raises NobodyCameError."""
        self._state = state
        ends = time.monotonic() + _SECONDS
        while not self._given:
            if time.monotonic() > ends:
                raise NobodyCameError
            self._server.handle_request()
        return self._given

    def answer(self, request: Any) -> None:
        """One request; only the one that knows the state counts."""
        parts = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        known = parts.path == "/callback" and secrets.compare_digest(query.get("state", ""), self._state)
        if known:
            self._given = query
        request.send_response(200 if known else 404)
        request.send_header("content-type", "text/html; charset=utf-8")
        request.end_headers()
        request.wfile.write(_DONE_PAGE if "code" in query and known else _FAILED_PAGE)
