"""How an MCP server is reached, and the rules that a connection must keep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from slipway_chassis import jcs
from slipway_chassis.errors import FieldViolation

from slipway_tools.declare import header_faults, region_faults, secret_fault, timeout_faults, url_fault
from slipway_tools.errors import InvalidTool
from slipway_tools.python_tool import file_faults
from slipway_tools.tool import DEFAULT_TIMEOUT, SECRET_PREFIX, SideEffect

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_RESERVED = ("agent", "knowledge", "runs")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_CREDENTIAL = re.compile(r"api_?key|token|secret|passw", re.IGNORECASE)
_FILES_LIMIT = 1 << 20  # bytes of files that stand in the connection itself


OAuthGrant = Literal["client_credentials", "authorization_code"]


@dataclass(frozen=True)
class OAuth:
    """How access tokens for one MCP server are got; `client_secret` is a reference.

    With client credentials, client, secret and issuer are declared. With an authorization code all may be empty: then
    the server's metadata says. `audiences` are names of the server in tokens, beside its address.
    """

    client_id: str = ""
    client_secret: str = ""
    issuer: str = ""
    scopes: tuple[str, ...] = ()
    grant: OAuthGrant = "client_credentials"
    per_user: bool = False
    audiences: tuple[str, ...] = ()

    def content(self) -> dict[str, Any]:
        """As JSON. What was not there in earlier versions stands in it only when it is used: digests stay."""
        content: dict[str, Any] = {
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "issuer": self.issuer,
            "scopes": list(self.scopes),
        }
        if self.grant != "client_credentials":
            content |= {"grant": self.grant, "per_user": self.per_user}
        if self.audiences:
            content["audiences"] = list(self.audiences)
        return content

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> "OAuth":
        """What `content` made."""
        return cls(
            content["client_id"],
            content["client_secret"],
            content["issuer"],
            tuple(content["scopes"]),
            content.get("grant", "client_credentials"),
            content.get("per_user", False),
            tuple(content.get("audiences", ())),
        )


_UNDECLARED = OAuth(grant="authorization_code")


@dataclass(frozen=True)
class HttpEndpoint:
    """An endpoint of the streamable HTTP transport."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    oauth: OAuth | None = None

    def secret_names(self) -> list[str]:
        """Names of the secrets that are sent there."""
        return [value.removeprefix(SECRET_PREFIX) for value in self.headers.values() if value.startswith(SECRET_PREFIX)]


@dataclass(frozen=True)
class StdioProgram:
    """A program of the sandbox that speaks MCP over standard input and output; files are contents or file ids."""

    command: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Connection:
    """How a server is reached: `http` or `stdio`. `timeout` is in seconds and holds for a call with all it needs."""

    http: HttpEndpoint | None = None
    stdio: StdioProgram | None = None
    regions: tuple[str, ...] = ()
    timeout: float = DEFAULT_TIMEOUT
    side_effect: SideEffect = "write"

    def content(self) -> dict[str, Any]:
        """The connection as JSON: what is stored, digested and recorded."""
        content: dict[str, Any] = {
            "regions": sorted(self.regions),
            "timeout_ms": round(self.timeout * 1000),
            "side_effect": self.side_effect,
        }
        if http := self.http:
            endpoint: dict[str, Any] = {"url": http.url, "headers": dict(sorted(http.headers.items()))}
            content["http"] = endpoint
            if oauth := http.oauth:
                endpoint["oauth"] = oauth.content()
        if stdio := self.stdio:
            content["stdio"] = {
                "command": list(stdio.command),
                "files": dict(sorted(stdio.files.items())),
                "environment": dict(sorted(stdio.environment.items())),
            }
        return content

    @property
    def login(self) -> OAuth | None:
        """How people log in; None: nobody does. A server that is told no credentials may ask for a login."""
        if self.http is None:
            return None
        if self.http.oauth is not None:
            return self.http.oauth if self.http.oauth.grant == "authorization_code" else None
        has_own = any(name.lower() == "authorization" for name in self.http.headers)
        return None if has_own else _UNDECLARED

    @property
    def digest(self) -> str:
        """`sha256:` and hex digest of the canonical connection."""
        return jcs.digest(self.content())


@dataclass(frozen=True)
class McpServer:
    """A connected server. `proposer` is the person who connected it or changed its connection last."""

    name: str
    connection: Connection
    proposer: str
    create_time: datetime
    update_time: datetime


def from_content(content: Mapping[str, Any]) -> Connection:
    """The connection whose `content` was stored."""
    http, stdio = content.get("http"), content.get("stdio")
    oauth = http.get("oauth") if http else None
    return Connection(
        http=HttpEndpoint(
            http["url"],
            http["headers"],
            OAuth.from_content(oauth) if oauth else None,
        )
        if http
        else None,
        stdio=StdioProgram(tuple(stdio["command"]), stdio["files"], stdio["environment"]) if stdio else None,
        regions=tuple(content["regions"]),
        timeout=content["timeout_ms"] / 1000,
        side_effect=content["side_effect"],
    )


def check(name: str, connection: Connection) -> None:
    """Check a connection; whether its host may be called and its secrets exist depends on the machine.

    Raises:
        InvalidTool: with a violation per fault.
    """
    faults: list[FieldViolation] = []
    if not _NAME.fullmatch(name):
        faults.append(
            FieldViolation("server", "must be 1 to 32 of a-z, 0-9, `_`, `-`, and begin with a letter or digit")
        )
    if name in _RESERVED:
        faults.append(FieldViolation("server", f"must not be one of {', '.join(_RESERVED)}"))
    if (connection.http is None) == (connection.stdio is None):
        faults.append(FieldViolation("connection", "must have exactly one of http and stdio"))
    faults += [_below(fault) for fault in region_faults(connection.regions)]
    faults += timeout_faults("connection.timeout", connection.timeout)
    if http := connection.http:
        faults += _http_faults(http)
    if stdio := connection.stdio:
        faults += _stdio_faults(stdio)
    if faults:
        raise InvalidTool("the connection of the MCP server is wrong", violations=faults)


def _below(fault: FieldViolation) -> FieldViolation:
    return FieldViolation(f"connection.{fault.field}", fault.message)


def _http_faults(http: HttpEndpoint) -> list[FieldViolation]:
    faults: list[FieldViolation] = []
    if fault := url_fault(http.url) or ("must have no `{name}`" if "{" in http.url else None):
        faults.append(FieldViolation("connection.http.url", fault))
    faults += header_faults("connection.http.headers", http.headers)
    if not (oauth := http.oauth):
        return faults
    if any(name.lower() == "authorization" for name in http.headers):
        faults.append(FieldViolation("connection.http.oauth", "and a header Authorization exclude each other"))
    return faults + [
        FieldViolation(f"connection.http.oauth.{fault.field}", fault.message) for fault in _oauth_faults(oauth)
    ]


def _oauth_faults(oauth: OAuth) -> list[FieldViolation]:
    faults: list[FieldViolation] = []
    needed = oauth.grant == "client_credentials"
    if needed or oauth.client_id:
        if not 0 < len(oauth.client_id) <= 256 or not oauth.client_id.isprintable():
            faults.append(FieldViolation("client_id", "must be 1 to 256 characters"))
    elif oauth.client_secret:
        faults.append(FieldViolation("client_id", "must be given with a client secret"))
    if (needed or oauth.client_secret) and (fault := secret_fault(oauth.client_secret)):
        faults.append(FieldViolation("client_secret", fault))
    # A client is one of some issuer; its id and secret go to no other.
    if (needed or oauth.client_id or oauth.issuer) and (
        fault := url_fault(oauth.issuer) or ("must have no query" if "?" in oauth.issuer else None)
    ):
        faults.append(FieldViolation("issuer", fault))
    if needed and oauth.per_user:
        faults.append(FieldViolation("per_user", "is for logins: client credentials are nobody's"))
    if not _words(oauth.scopes):
        faults.append(FieldViolation("scopes", "must be at most 32 scopes without spaces"))
    if not _words(oauth.audiences):
        faults.append(FieldViolation("audiences", "must be at most 32 names without spaces"))
    return faults


def _stdio_faults(stdio: StdioProgram) -> list[FieldViolation]:
    faults: list[FieldViolation] = []
    if not 1 <= len(stdio.command) <= 64 or not stdio.command[0]:
        faults.append(FieldViolation("connection.stdio.command", "must be a program and at most 63 arguments"))
    if any(len(part) > 4096 or "\0" in part for part in stdio.command):
        faults.append(
            FieldViolation("connection.stdio.command", "must be of at most 4096 characters each, without NUL")
        )
    if (
        len(stdio.files) > 64
        or sum(len(text.encode("utf-8", "replace")) for text in stdio.files.values()) > _FILES_LIMIT
    ):
        faults.append(
            FieldViolation("connection.stdio.files", f"must be at most 64 of {_FILES_LIMIT} bytes: upload larger ones")
        )
    faults += [FieldViolation(f"connection.stdio{fault.field}", fault.message) for fault in file_faults(stdio.files)]
    for name, value in stdio.environment.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value or len(value) > 4096:
            faults.append(FieldViolation(f"connection.stdio.environment[{name}]", "is no variable"))
        elif _CREDENTIAL.search(name) or value.startswith(SECRET_PREFIX):
            faults.append(
                FieldViolation(f"connection.stdio.environment[{name}]", "code in the sandbox gets no credentials")
            )
    return faults


def _words(scopes: Sequence[str]) -> bool:
    return len(scopes) <= 32 and all(
        0 < len(scope) <= 256 and scope.isprintable() and " " not in scope for scope in scopes
    )
