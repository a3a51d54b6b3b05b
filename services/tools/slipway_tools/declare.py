"""The rules that a declaration must keep."""

import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from slipway_chassis.errors import FieldViolation

from slipway_tools import schema
from slipway_tools.errors import InvalidTool
from slipway_tools.tool import (
    PLACEHOLDER,
    SECRET_PREFIX,
    Declaration,
    HttpCall,
    Kind,
    PythonFunction,
    ShellCommand,
    SideEffect,
    SqlQuery,
    http_side_effect,
)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 300.0
_CODE_LIMIT = 128 * 1024
_QUERY_LIMIT = 32 * 1024
_MOST_ROWS = 100_000
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# What the MCP server of the gateway calls agents, the search in knowledge and the look at a run.
_RESERVED_NAMES = ("agent.", "knowledge.", "runs.")
_SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,1024}")
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


def declare(
    *,
    name: str,
    description: str,
    input_schema_json: str,
    output_schema_json: str,
    idempotent: bool,
    regions: Sequence[str],
    side_effect: SideEffect | None = None,
    trusted_output: bool = False,
    http: HttpCall | None = None,
    python: PythonFunction | None = None,
    shell: ShellCommand | None = None,
    sql: SqlQuery | None = None,
) -> Declaration:
    """Check the declaration of an HTTP tool, a Python function, a command or a query: exactly one of them.

    Whether a host may be called, its secrets exist and a query can be read is for the caller to check.

    Raises:
        InvalidTool: with a violation per fault.
        InvalidJson: a schema is not JSON.
    """
    faults = name_faults(name) + description_faults(description) + region_faults(regions)
    kinds: list[Kind] = [kind for kind, made in _kinds(http, python, shell, sql) if made is not None]
    if len(kinds) != 1:
        faults.append(FieldViolation("http", "is missing" if not kinds else "exactly one of http, python, shell, sql"))
    if http:
        faults += http_faults(http)
    if python:
        faults += _python_faults(python)
    if shell:
        faults += _shell_faults(shell)
    if sql:
        faults += _sql_faults(sql, side_effect)
    if trusted_output and not (http or sql):
        faults.append(
            FieldViolation("trusted_output", "is for HTTP and SQL tools: the sandbox only computes with its arguments")
        )
    if faults:
        raise InvalidTool("the declaration of the tool is wrong", violations=faults)
    input_schema = schema.parse_schema(input_schema_json, field="input_schema_json", of_object=True)
    output_schema = (
        schema.parse_schema(output_schema_json, field="output_schema_json", of_object=False)
        if output_schema_json
        else None
    )
    _check_arguments(input_schema, http, shell)
    if sql:
        _check_values(input_schema)
    return Declaration(
        name,
        kinds[0],
        description,
        input_schema,
        output_schema,
        # What runs in the sandbox acts on nothing outside of it, unless the platform lets it (`Tool.repeatable`).
        idempotent if http else True,
        tuple(regions),
        side_effect or (http_side_effect(http.method) if http else "read"),
        bool(http or sql) and not trusted_output,
        http=http,
        python=python,
        shell=shell,
        sql=sql,
    )


def _kinds(
    http: HttpCall | None, python: PythonFunction | None, shell: ShellCommand | None, sql: SqlQuery | None
) -> list[tuple[Kind, HttpCall | PythonFunction | ShellCommand | SqlQuery | None]]:
    return [("http", http), ("python", python), ("shell", shell), ("sql", sql)]


def _sql_faults(sql: SqlQuery, side_effect: SideEffect | None) -> list[FieldViolation]:
    faults = timeout_faults("sql.timeout", sql.timeout)
    if not 1 <= len(sql.query.encode("utf-8", "replace")) <= _QUERY_LIMIT:
        faults.append(FieldViolation("sql.query", f"must be 1 to {_QUERY_LIMIT} bytes"))
    if not sql.source:
        faults.append(FieldViolation("sql.source", "must name a data source"))
    if not 0 <= sql.limit <= _MOST_ROWS:
        faults.append(FieldViolation("sql.limit", f"must be 0 to {_MOST_ROWS}"))
    if side_effect not in (None, "read"):
        faults.append(FieldViolation("side_effect", "is read: a query changes nothing"))
    return faults


def _check_values(input_schema: Mapping[str, Any]) -> None:
    """A query's values are the declared arguments: raises InvalidTool for one that can't stand in SQL as `:name`."""
    for name in input_schema.get("properties", {}):
        if not (name.isidentifier() and name.isascii()):
            raise InvalidTool(f"{name[:64]!r} can't stand in a query as :name", field="input_schema_json")


def name_faults(name: str) -> list[FieldViolation]:
    """What is wrong with a tool's name."""
    if name.startswith(_RESERVED_NAMES):
        return [FieldViolation("tool", f"must not begin with {', '.join(_RESERVED_NAMES)}")]
    if _NAME.fullmatch(name):
        return []
    return [FieldViolation("tool", "must be 1 to 64 of a-z, 0-9, `.`, `_`, `-`, and begin with a letter or digit")]


def description_faults(description: str) -> list[FieldViolation]:
    """What is wrong with a description."""
    return [FieldViolation("description", "must be at most 4096 characters")] if len(description) > 4096 else []


def region_faults(regions: Sequence[str]) -> list[FieldViolation]:
    """What is wrong with declared regions."""
    return [
        FieldViolation(f"regions[{index}]", "must be 1 to 32 of a-z, 0-9, `-`")
        for index, region in enumerate(regions)
        if not _REGION.fullmatch(region)
    ]


def _check_arguments(input_schema: Mapping[str, Any], http: HttpCall | None, shell: ShellCommand | None) -> None:
    """What a call is put together from must be there: raises InvalidTool."""
    required: list[str] = input_schema.get("required", [])
    needed = [(name, "http.url") for name in (http.placeholders() if http else [])]
    needed += [(name, "shell.command") for name in (shell.placeholders() if shell else [])]
    missing = [(name, field) for name, field in needed if name not in required]
    if missing:
        name, field = missing[0]
        raise InvalidTool(f"{name} must be a required argument of the input schema", field=field)


def _python_faults(python: PythonFunction) -> list[FieldViolation]:
    faults: list[FieldViolation] = []
    if not python.code or len(python.code.encode("utf-8", "replace")) > _CODE_LIMIT:
        faults.append(FieldViolation("python.code", f"must be 1 to {_CODE_LIMIT} bytes"))
    if not python.function.isidentifier() or keyword.iskeyword(python.function):
        faults.append(FieldViolation("python.function", "is no name of a function"))
    return faults + timeout_faults("python.timeout", python.timeout)


def _shell_faults(shell: ShellCommand) -> list[FieldViolation]:
    faults: list[FieldViolation] = []
    if not 1 <= len(shell.command) <= 64 or not shell.command[0]:
        faults.append(FieldViolation("shell.command", "must be a program and at most 63 arguments"))
    elif PLACEHOLDER.fullmatch(shell.command[0]):
        faults.append(FieldViolation("shell.command[0]", "must name a program: arguments don't choose it"))
    for index, part in enumerate(shell.command):
        if len(part) > 4096 or "\0" in part:
            faults.append(FieldViolation(f"shell.command[{index}]", "must be at most 4096 characters without NUL"))
    return faults + timeout_faults("shell.timeout", shell.timeout)


def timeout_faults(field: str, seconds: float) -> list[FieldViolation]:
    """What is wrong with a timeout."""
    return [] if MIN_TIMEOUT <= seconds <= MAX_TIMEOUT else [FieldViolation(field, "must be 100 ms to 5 min")]


def http_faults(http: HttpCall) -> list[FieldViolation]:
    """What is wrong with how an HTTP tool is called."""
    faults: list[FieldViolation] = []
    if http.method not in METHODS:
        faults.append(FieldViolation("http.method", f"must be one of {', '.join(METHODS)}"))
    if fault := url_fault(http.url):
        faults.append(FieldViolation("http.url", fault))
    faults += timeout_faults("http.timeout", http.timeout)
    key_header = http.idempotency_header.lower()
    if not _HEADER_NAME.fullmatch(http.idempotency_header) or key_header in _RESERVED_HEADERS:
        faults.append(FieldViolation("http.idempotency_header", "is no header that a tool may set"))
    faults += header_faults("http.headers", http.headers, key_header)
    taken = {key_header, *(name.lower() for name in http.headers)}
    for argument, header in http.header_arguments.items():
        if (
            not _HEADER_NAME.fullmatch(header)
            or header.lower() in _RESERVED_HEADERS | taken
            or _CREDENTIAL.search(header)
        ):
            faults.append(FieldViolation(f"http.header_arguments[{argument}]", "is no header that an argument may set"))
        taken.add(header.lower())
    placed = [*dict.fromkeys(http.placeholders()), *http.query_arguments, *http.header_arguments]
    placed += [http.body_argument] if http.body_argument else []
    if len(set(placed)) != len(placed):
        faults.append(FieldViolation("http", "puts one argument into two places"))
    if http.body_argument and http.method in ("GET", "DELETE"):
        faults.append(FieldViolation("http.body_argument", f"is not for {http.method}, which sends no body"))
    return faults


def header_faults(field: str, headers: Mapping[str, str], key_header: str = "") -> list[FieldViolation]:
    """What is wrong with headers that are sent with every call."""
    if len(headers) > 32:
        return [FieldViolation(field, "must be at most 32")]
    return [
        FieldViolation(f"{field}[{name}]", fault)
        for name, value in headers.items()
        if (fault := _header_fault(name, value, key_header))
    ]


def secret_fault(reference: str) -> str | None:
    """What is wrong with a reference to a secret."""
    well_formed = reference.startswith(SECRET_PREFIX) and _SECRET_NAME.fullmatch(reference.removeprefix(SECRET_PREFIX))
    return None if well_formed else "must be `secret:` and a name"


def _header_fault(name: str, value: str, key_header: str) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return "is no header name"
    if name.lower() in _RESERVED_HEADERS or name.lower() == key_header:
        return "is set by the service itself"
    if value.startswith(SECRET_PREFIX):
        return secret_fault(value)
    if _CREDENTIAL.search(name):
        return "carries a credential: its value must be `secret:NAME`"
    return None if _HEADER_VALUE.fullmatch(value) else "must be at most 1024 printable ASCII characters"


def url_fault(url: str) -> str | None:
    """What is wrong with an address; whether it may be called is decided at every call."""
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
    stripped = PLACEHOLDER.sub("", parts.path)
    if "{" in outside or "}" in outside or "{" in stripped or "}" in stripped:
        return "may have `{name}` in segments of its path only"
    if len(set(placeholders := PLACEHOLDER.findall(parts.path))) != len(placeholders):
        return "names an argument twice"
    return None
