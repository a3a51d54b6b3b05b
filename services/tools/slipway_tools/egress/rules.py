"""Which program may reach what: a YAML file of the platform team, looked at again when it changes.

    python:                                # the tool; `shell`, `node`, or the name of a declared function or command
      tenants: [acme]                      # unset: every tenant
      allow:
        - host: api.example.com            # a name, `*.example.com` for names below it, or `*` for any public host
          port: 443                        # unset: 443, or 80 with `scheme: http`
          methods: [GET, POST]             # unset: GET and HEAD
          paths: [/v1/*]                   # `*` stands for any characters; unset: all
          headers: {Authorization: "secret:crm-key"}   # added to requests; the program never sees them
      limits: {requests: 100, request_bytes: 1048576, response_bytes: 16777216}

A file that is missing or invalid closes the network: nothing may go out until it is right again.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from slipway_tools.sandbox.metrics import EGRESS_CLOSED

log = structlog.get_logger(__name__)
_HOST = re.compile(r"\*|(\*\.)?[a-z0-9]([a-z0-9.:-]*[a-z0-9])?")
_METHOD = re.compile(r"[A-Z]{1,16}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_FORBIDDEN_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"}
)
_PATH = re.compile(r"/(?:[!\"$&-~]|%[0-9A-Fa-f]{2})*")  # printable ASCII without `#`
_STEP = re.compile(r"[\s.]*\.[\s.]*")  # also what becomes one where spaces and dots at the end do not count


class InvalidEgressRules(ValueError):
    """The file can't be used; the message says where and why."""


class Rule(BaseModel):
    """One thing that may be reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    scheme: Literal["https", "http"] = "https"
    port: int = Field(0, ge=0, le=65535)
    methods: tuple[str, ...] = ("GET", "HEAD")
    paths: tuple[str, ...] = ("/*",)
    headers: Mapping[str, str] = {}

    @field_validator("host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        value = value.lower().rstrip(".")
        if not _HOST.fullmatch(value):
            raise ValueError("must be a host's name, `*.` and a name, or `*`")
        return value

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(_METHOD.fullmatch(method) for method in value) or "CONNECT" in value:
            raise ValueError("must be HTTP methods in capitals, and not CONNECT")
        return value

    @field_validator("paths")
    @classmethod
    def _are_paths(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(path.startswith("/") for path in value):
            raise ValueError("must be paths that begin with /")
        return value

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name in value:
            if not _HEADER.fullmatch(name) or name.lower() in _FORBIDDEN_HEADERS:
                raise ValueError(f"may not set the header {name}")
        return value

    @property
    def real_port(self) -> int:
        """The port, by scheme where none is given."""
        return self.port or (443 if self.scheme == "https" else 80)

    def reaches(self, scheme: str, host: str, port: int) -> bool:
        """True when it is about that server."""
        named = host.endswith(self.host[1:]) if self.host.startswith("*.") else self.host in ("*", host)
        return named and scheme == self.scheme and port == self.real_port

    def allows(self, method: str, path: str) -> bool:
        """True when it lets a request of that method and path (without its query) through."""
        return method in self.methods and any(_glob(pattern).fullmatch(path) for pattern in self.paths)


class EgressLimits(BaseModel):
    """Of one call together: how many requests, and bytes of their bodies out and in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int = Field(100, ge=1, le=10_000)
    request_bytes: int = Field(1 << 20, ge=0, le=1 << 30)
    response_bytes: int = Field(16 << 20, ge=0, le=1 << 30)


class ToolRules(BaseModel):
    """What one tool may reach."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenants: tuple[str, ...] = ()
    allow: tuple[Rule, ...]
    limits: EgressLimits = EgressLimits()  # pyright: ignore[reportCallIssue]

    def find(self, scheme: str, host: str, port: int) -> list[Rule]:
        """The rules about a server."""
        return [rule for rule in self.allow if rule.reaches(scheme, host, port)]


@dataclass
class EgressRules:
    """The rules in force: of the file as it is now, and none at all while it can't be read."""

    path: Path | None
    _stamp: object = field(default=object(), init=False)
    _rules: Mapping[str, ToolRules] = field(default_factory=dict[str, ToolRules], init=False)

    def of(self, tenant: str, tool: str) -> ToolRules | None:
        """What `tool` may reach when `tenant` calls it; None: nothing."""
        self._take_up_changes()
        rules = self._rules.get(tool)
        return rules if rules and (not rules.tenants or tenant in rules.tenants) else None

    def _take_up_changes(self) -> None:
        if self.path is None:
            return
        try:
            info = self.path.stat()
            stamp: object = (info.st_ino, info.st_size, info.st_mtime_ns)
        except OSError as error:
            stamp = error.strerror
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._rules = load(self.path)
        except InvalidEgressRules as error:
            self._rules = {}
            EGRESS_CLOSED.set(1)
            log.error("egress.closed", error=str(error))
        else:
            EGRESS_CLOSED.set(0)
            log.info("egress.rules_loaded", file=str(self.path), tools=sorted(self._rules))


def load(path: Path) -> dict[str, ToolRules]:
    """Read a file of rules; raises InvalidEgressRules with the place."""
    try:
        with path.open("rb") as file:
            content: Any = YAML(typ="safe").load(file)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InvalidEgressRules(f"{path}, line {line}: {error.problem}") from None
    except (OSError, YAMLError) as error:
        raise InvalidEgressRules(f"{path}: {error.strerror if isinstance(error, OSError) else 'is not YAML'}") from None
    if not isinstance(content, dict):
        raise InvalidEgressRules(f"{path}: must be a mapping of tools to their rules")
    rules: dict[str, ToolRules] = {}
    for name, entry in content.items():
        try:
            rules[str(name)] = ToolRules.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, (name, *first["loc"])))
            raise InvalidEgressRules(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    return rules


def plain_path(path: str) -> bool:
    """True for a path that means what it says: no step up, hidden or not, that a server might resolve differently."""
    if not _PATH.fullmatch(path):
        return False
    for _ in range(3):
        segments = path.split("/")
        # Servers take parameters off a segment before they resolve it: `..;x` is a step up for them.
        if "\\" in path or "" in segments[1:-1] or any(_STEP.fullmatch(part.partition(";")[0]) for part in segments):
            return False
        try:
            # What is no UTF-8 may be `.` or `/` in a longer form; so may other characters, for who folds them.
            decoded = unicodedata.normalize("NFKC", unquote(path, errors="strict"))
        except UnicodeDecodeError:
            return False
        if decoded.count("/") != path.count("/") or any(character < " " for character in decoded):
            return False
        if decoded == path:
            return True
        path = decoded
    return False


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
