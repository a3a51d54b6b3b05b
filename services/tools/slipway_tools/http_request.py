"""From a declaration and arguments to the parts of an HTTP request."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from slipway_chassis.errors import FieldViolation

from slipway_tools.errors import InvalidToolArguments
from slipway_tools.tool import HttpCall


@dataclass(frozen=True)
class Target:
    """Where a request goes: host and port apart from the rest, because the connection goes to a checked address."""

    scheme: str
    host: str
    port: int
    path_and_query: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


_DEFAULT_PORTS = {"http": 80, "https": 443}


def endpoint(http: HttpCall) -> tuple[str, str, int]:
    """Scheme, host and port of a declaration; arguments can't change them."""
    parts = urlsplit(http.url)
    host = (parts.hostname or "").rstrip(".").lower()
    return parts.scheme, host, parts.port or _DEFAULT_PORTS[parts.scheme]


@dataclass(frozen=True)
class Parts:
    """What arguments become: the target, headers, and the JSON body (None for GET and DELETE)."""

    target: Target
    headers: dict[str, str]
    body: bytes | None


def build(http: HttpCall, arguments: dict[str, Any]) -> Parts:
    """The request's parts that depend on the arguments.

    Raises:
        InvalidToolArguments: an argument can't stand in a path, a query or a header.
    """
    scheme, host, port = endpoint(http)
    parts = urlsplit(http.url)
    rest = dict(arguments)
    path = parts.path or "/"
    for name in http.placeholders():
        path = path.replace(f"{{{name}}}", _segment(name, rest.pop(name)))
    headers = {
        header: _header(name, value)
        for name, header in http.header_arguments.items()
        if (value := rest.pop(name, None)) is not None
    }
    asked = {name: rest.pop(name) for name in http.query_arguments if name in rest}
    body: bytes | None = None
    if http.method in ("GET", "DELETE"):
        asked |= rest
    elif not http.body_argument:
        body = _json(rest)
    elif http.body_argument in rest:
        body = _json(rest[http.body_argument])
    query = "&".join(filter(None, (parts.query, urlencode(_pairs(asked)))))
    return Parts(Target(scheme, host, port, urlunsplit(("", "", path, query, ""))), headers, body)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _header(name: str, value: Any) -> str:
    text = _scalar(name, value)
    if len(text) > 1024 or not text.isascii() or not text.isprintable():
        raise _fault(name, "can't be a header: it must be at most 1024 printable ASCII characters")
    return text


def _segment(name: str, value: Any) -> str:
    text = _scalar(name, value)
    # Empty segments and dots would change which resource is meant; intermediaries also undo an encoded slash.
    if text in ("", ".", "..") or "/" in text or "\\" in text:
        raise _fault(name, "can't be a segment of the path: it is empty, dots, or holds a slash")
    return quote(text, safe="")


def _pairs(arguments: dict[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in arguments.items():
        if value is None:
            continue
        values: list[Any] = value if isinstance(value, list) else [value]  # pyright: ignore[reportUnknownVariableType]
        pairs += [(name, _scalar(name, item)) for item in values]
    return pairs


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise _fault(name, "must be a text, a number or a boolean: it goes into the address")


def _fault(name: str, message: str) -> InvalidToolArguments:
    return InvalidToolArguments(f"argument {name} {message}", violations=[FieldViolation(f"/{name}", message)])
