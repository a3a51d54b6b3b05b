"""What a tool is: its declaration, and the rules that a declaration must keep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from slipway_chassis import jcs
from slipway_chassis.errors import FieldViolation

from slipway_tools import schema
from slipway_tools.errors import InvalidTool

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SECRET_PREFIX = "secret:"  # noqa: S105 - the form of a reference
DEFAULT_IDEMPOTENCY_HEADER = "Idempotency-Key"
DEFAULT_TIMEOUT = 30.0
_MIN_TIMEOUT, _MAX_TIMEOUT = 0.1, 300.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,1024}")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
# The connection's own headers; what they say is decided here, per call.
_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_CREDENTIAL = re.compile(r"^(proxy-)?authorization$|^cookie$|api-?key|token|secret|password", re.IGNORECASE)
Kind = Literal["builtin", "http"]


@dataclass(frozen=True)
class HttpCall:
    """How an HTTP tool is called; `timeout` in seconds. Values of the form `secret:NAME` are references."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    idempotency_header: str = DEFAULT_IDEMPOTENCY_HEADER
    timeout: float = DEFAULT_TIMEOUT

    @property
    def safe(self) -> bool:
        """True for a method that changes nothing (RFC 9110, 9.2.1)."""
        return self.method == "GET"

    def placeholders(self) -> list[str]:
        """Names of the arguments that fill segments of the path."""
        return _PLACEHOLDER.findall(urlsplit(self.url).path)

    def secret_names(self) -> list[str]:
        """Names of the secrets that the headers refer to."""
        return [value.removeprefix(SECRET_PREFIX) for value in self.headers.values() if value.startswith(SECRET_PREFIX)]


@dataclass(frozen=True)
class Declaration:
    """A tool as it was declared; schemas are parsed JSON, `output_schema` None accepts anything."""

    name: str
    kind: Kind
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    idempotent: bool
    regions: tuple[str, ...] = ()
    http: HttpCall | None = None

    def content(self) -> dict[str, Any]:
        """The declaration as JSON: what is stored, digested and recorded. Secrets are in it by name only."""
        http = self.http
        return {
            "tool": self.name,
            "kind": self.kind,
            "description": self.description,
            "input_schema": self.input_schema,
            "output_schema": self.output_schema,
            "idempotent": self.idempotent,
            "regions": sorted(self.regions),
            "http": http
            and {
                "method": http.method,
                "url": http.url,
                "headers": dict(sorted(http.headers.items())),
                "idempotency_header": http.idempotency_header,
                "timeout_ms": round(http.timeout * 1000),
            },
        }

    @property
    def digest(self) -> str:
        """`sha256:` and hex digest of the canonical declaration."""
        return jcs.digest(self.content())

    @property
    def repeatable(self) -> bool:
        """True when doing a call twice is harmless: the target honours the key, or the call changes nothing."""
        return self.idempotent or (self.http is not None and self.http.safe)


@dataclass(frozen=True)
class Tool:
    """A declared tool and its times."""

    declaration: Declaration
    create_time: datetime
    update_time: datetime


def from_content(content: Mapping[str, Any]) -> Declaration:
    """The declaration whose `content` was stored."""
    http = content["http"]
    return Declaration(
        name=content["tool"],
        kind=content["kind"],
        description=content["description"],
        input_schema=content["input_schema"],
        output_schema=content["output_schema"],
        idempotent=content["idempotent"],
        regions=tuple(content["regions"]),
        http=http
        and HttpCall(
            http["method"], http["url"], http["headers"], http["idempotency_header"], http["timeout_ms"] / 1000
        ),
    )


def declare_http(
    *,
    name: str,
    description: str,
    input_schema_json: str,
    output_schema_json: str,
    idempotent: bool,
    regions: Sequence[str],
    http: HttpCall | None,
) -> Declaration:
    """Check the declaration of an HTTP tool.

    Whether its host may be called and its secrets exist is for the caller to check: both depend on the machine.

    Raises:
        InvalidTool: with a violation per fault.
        InvalidJson: a schema is not JSON.
    """
    faults: list[FieldViolation] = []
    if not _NAME.fullmatch(name):
        faults.append(
            FieldViolation("tool", "must be 1 to 64 of a-z, 0-9, `.`, `_`, `-`, and begin with a letter or digit")
        )
    if len(description) > 4096:
        faults.append(FieldViolation("description", "must be at most 4096 characters"))
    for index, region in enumerate(regions):
        if not _REGION.fullmatch(region):
            faults.append(FieldViolation(f"regions[{index}]", "must be 1 to 32 of a-z, 0-9, `-`"))
    if http is None:
        faults.append(FieldViolation("http", "is missing"))
    else:
        faults += _http_faults(http)
    if faults:
        raise InvalidTool("the declaration of the tool is wrong", violations=faults)
    input_schema = schema.parse_schema(input_schema_json, field="input_schema_json", of_object=True)
    output_schema = (
        schema.parse_schema(output_schema_json, field="output_schema_json", of_object=False)
        if output_schema_json
        else None
    )
    required: list[str] = input_schema.get("required", [])
    missing = [name for name in (http.placeholders() if http else []) if name not in required]
    if missing:
        raise InvalidTool(f"{missing[0]} must be a required argument of the input schema", field="http.url")
    return Declaration(name, "http", description, input_schema, output_schema, idempotent, tuple(regions), http)


def _http_faults(http: HttpCall) -> list[FieldViolation]:
    faults: list[FieldViolation] = []
    if http.method not in METHODS:
        faults.append(FieldViolation("http.method", f"must be one of {', '.join(METHODS)}"))
    if fault := _url_fault(http.url):
        faults.append(FieldViolation("http.url", fault))
    if not _MIN_TIMEOUT <= http.timeout <= _MAX_TIMEOUT:
        faults.append(FieldViolation("http.timeout", "must be 100 ms to 5 min"))
    key_header = http.idempotency_header.lower()
    if not _HEADER_NAME.fullmatch(http.idempotency_header) or key_header in _RESERVED_HEADERS:
        faults.append(FieldViolation("http.idempotency_header", "is no header that a tool may set"))
    if len(http.headers) > 32:
        faults.append(FieldViolation("http.headers", "must be at most 32"))
    for name, value in http.headers.items():
        if fault := _header_fault(name, value, key_header):
            faults.append(FieldViolation(f"http.headers[{name}]", fault))
    return faults


def _header_fault(name: str, value: str, key_header: str) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return "is no header name"
    if name.lower() in _RESERVED_HEADERS or name.lower() == key_header:
        return "is set by the service itself"
    if value.startswith(SECRET_PREFIX):
        return None if _SECRET_NAME.fullmatch(value.removeprefix(SECRET_PREFIX)) else "must be `secret:` and a name"
    if _CREDENTIAL.search(name):
        return "carries a credential: its value must be `secret:NAME`"
    return None if _HEADER_VALUE.fullmatch(value) else "must be at most 1024 printable ASCII characters"


def _url_fault(url: str) -> str | None:
    if len(url) > 2048 or not url.isascii() or any(character in url for character in ' \\"<>^`|\t\r\n'):
        return "must be an ASCII URL of at most 2048 characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "must be an https:// URL with a host"
    if parts.username is not None or parts.password is not None:
        return "must hold no credentials: use a header with `secret:NAME`"
    if parts.fragment or port == 0:
        return "must have no fragment and a real port"
    outside = url.replace(parts.path, "", 1) if parts.path else url
    stripped = _PLACEHOLDER.sub("", parts.path)
    if "{" in outside or "}" in outside or "{" in stripped or "}" in stripped:
        return "may have `{name}` in segments of its path only"
    if len(set(placeholders := _PLACEHOLDER.findall(parts.path))) != len(placeholders):
        return "names an argument twice"
    return None
