"""What a tool is: its declaration as it is kept, digested and recorded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from slipway_chassis import jcs

SECRET_PREFIX = "secret:"  # noqa: S105 - the form of a reference
DEFAULT_IDEMPOTENCY_HEADER = "Idempotency-Key"
DEFAULT_TIMEOUT = 30.0
PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
Kind = Literal["builtin", "http", "python", "shell", "sql", "mcp"]
SideEffect = Literal["read", "write", "destructive"]
Reach = Literal["nothing", "reads", "writes"]


@dataclass(frozen=True)
class HttpCall:
    """How an HTTP tool is called; `timeout` in seconds. Values of the form `secret:NAME` are references.

    Arguments go into segments of the path, into the query (`query_arguments`, and all others of GET and DELETE), into
    headers (`header_arguments`: argument to header), or into the body: one is the whole body (`body_argument`), or an
    object of all that went nowhere else is.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    idempotency_header: str = DEFAULT_IDEMPOTENCY_HEADER
    timeout: float = DEFAULT_TIMEOUT
    query_arguments: tuple[str, ...] = ()
    header_arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    body_argument: str = ""

    @property
    def safe(self) -> bool:
        """True for a method that changes nothing (RFC 9110, 9.2.1)."""
        return self.method == "GET"

    def placeholders(self) -> list[str]:
        """Names of the arguments that fill segments of the path."""
        return PLACEHOLDER.findall(urlsplit(self.url).path)

    def secret_names(self) -> list[str]:
        """Names of the secrets that the headers refer to."""
        return [value.removeprefix(SECRET_PREFIX) for value in self.headers.values() if value.startswith(SECRET_PREFIX)]


@dataclass(frozen=True)
class PythonFunction:
    """A function that the sandbox calls with the arguments by name; `timeout` in seconds."""

    code: str
    function: str = "main"
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True)
class ShellCommand:
    """A command that the sandbox runs without a shell; elements `{name}` are arguments. `timeout` in seconds."""

    command: tuple[str, ...]
    stdin_argument: str = ""
    json_output: bool = False
    timeout: float = DEFAULT_TIMEOUT

    def placeholders(self) -> list[str]:
        """Names of the arguments that the command and its standard input need."""
        names = [match[1] for part in self.command if (match := PLACEHOLDER.fullmatch(part))]
        return [*names, self.stdin_argument] if self.stdin_argument else names


@dataclass(frozen=True)
class SqlQuery:
    """A query of a data source; `:name` in it are arguments. At most `limit` rows (0: 100); `timeout` in seconds."""

    source: str
    query: str
    limit: int = 0
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True)
class McpSource:
    """Which tool of which MCP server it is, and what was approved: its digest and the connection's."""

    server: str
    tool: str
    digest: str
    connection_digest: str
    approver: str


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
    side_effect: SideEffect = "read"
    untrusted_output: bool = False
    http: HttpCall | None = None
    python: PythonFunction | None = None
    shell: ShellCommand | None = None
    sql: SqlQuery | None = None
    mcp: McpSource | None = None

    def content(self) -> dict[str, Any]:
        """The declaration as JSON: what is stored, digested and recorded. Secrets are in it by name only."""
        http, python, shell, sql, mcp = self.http, self.python, self.shell, self.sql, self.mcp
        content: dict[str, Any] = {
            "tool": self.name,
            "kind": self.kind,
            "description": self.description,
            "input_schema": self.input_schema,
            "output_schema": self.output_schema,
            "idempotent": self.idempotent,
            "regions": sorted(self.regions),
            "side_effect": self.side_effect,
            "untrusted_output": self.untrusted_output,
        }
        if http:
            content["http"] = {
                "method": http.method,
                "url": http.url,
                "headers": dict(sorted(http.headers.items())),
                "idempotency_header": http.idempotency_header,
                "timeout_ms": round(http.timeout * 1000),
                "query_arguments": list(http.query_arguments),
                "header_arguments": dict(sorted(http.header_arguments.items())),
                "body_argument": http.body_argument,
            }
        if python:
            content["python"] = {
                "code": python.code,
                "function": python.function,
                "timeout_ms": round(python.timeout * 1000),
            }
        if shell:
            content["shell"] = {
                "command": list(shell.command),
                "stdin_argument": shell.stdin_argument,
                "json_output": shell.json_output,
                "timeout_ms": round(shell.timeout * 1000),
            }
        if sql:
            content["sql"] = {
                "source": sql.source,
                "query": sql.query,
                "limit": sql.limit,
                "timeout_ms": round(sql.timeout * 1000),
            }
        if mcp:
            content["mcp"] = {
                "server": mcp.server,
                "tool": mcp.tool,
                "digest": mcp.digest,
                "connection_digest": mcp.connection_digest,
                "approver": mcp.approver,
            }
        return content

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
    """A declared tool, its version (builtin: 0), its times, and why it can't be called (empty: it can).

    `reach` is what the platform lets a sandboxed tool reach outside: more than it declares, at times.
    """

    declaration: Declaration
    create_time: datetime
    update_time: datetime
    version: int = 0
    quarantine: str = ""
    reach: Reach = "nothing"

    @property
    def egress(self) -> bool:
        """True when a call sends its arguments out of the platform."""
        return self.declaration.kind in ("http", "sql", "mcp") or self.reach != "nothing"

    @property
    def untrusted_output(self) -> bool:
        """True when what it answers comes from outside."""
        return self.declaration.untrusted_output or self.reach != "nothing"

    @property
    def side_effect(self) -> SideEffect:
        """What a call may do to the world."""
        declared = self.declaration.side_effect
        return "write" if declared == "read" and self.reach == "writes" else declared

    @property
    def repeatable(self) -> bool:
        """True when doing a call twice is harmless."""
        return self.declaration.repeatable and self.reach != "writes"


def from_content(content: Mapping[str, Any]) -> Declaration:
    """The declaration whose `content` was stored, also by an earlier release."""
    http, python, shell, sql, mcp = (content.get(kind) for kind in ("http", "python", "shell", "sql", "mcp"))
    return Declaration(
        name=content["tool"],
        kind=content["kind"],
        description=content["description"],
        input_schema=content["input_schema"],
        output_schema=content["output_schema"],
        idempotent=content["idempotent"],
        regions=tuple(content["regions"]),
        side_effect=content.get("side_effect") or (http_side_effect(http["method"]) if http else "read"),
        untrusted_output=content.get("untrusted_output", True),
        http=HttpCall(
            http["method"],
            http["url"],
            http["headers"],
            http["idempotency_header"],
            http["timeout_ms"] / 1000,
            tuple(http.get("query_arguments", ())),
            http.get("header_arguments", {}),
            http.get("body_argument", ""),
        )
        if http
        else None,
        python=PythonFunction(python["code"], python["function"], python["timeout_ms"] / 1000) if python else None,
        shell=ShellCommand(
            tuple(shell["command"]), shell["stdin_argument"], shell["json_output"], shell["timeout_ms"] / 1000
        )
        if shell
        else None,
        sql=SqlQuery(sql["source"], sql["query"], sql["limit"], sql["timeout_ms"] / 1000) if sql else None,
        mcp=McpSource(**mcp) if mcp else None,
    )


def http_side_effect(method: str) -> SideEffect:
    """What a method does to the world unless its declaration says otherwise (RFC 9110, 9.2.1)."""
    if method == "GET":
        return "read"
    return "destructive" if method == "DELETE" else "write"
