"""Challenges of a protected resource: `WWW-Authenticate` (RFC 9110, 11.6.1; RFC 6750, 3; RFC 9728, 5.1)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_LONGEST = 8192
_SCOPES, _SCOPE = 32, 256
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar's token
_PART = re.compile(rf'\s*,*\s*({_TOKEN})(?:\s*=\s*("(?:[^"\\]|\\.)*"|{_TOKEN}))?')
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True)
class Challenge:
    """The Bearer challenge of an answer; all empty when there is none."""

    error: str = ""
    resource_metadata: str = ""
    scopes: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])


def read(header: str) -> Challenge:
    """The first Bearer challenge. What is no challenge counts as none: a server may write what it likes."""
    parameters: dict[str, str] | None = None
    position, text = 0, header[:_LONGEST]
    while match := _PART.match(text, position):
        position = match.end()
        name, value = match[1].lower(), match[2]
        if value is None:
            if parameters is not None:
                break
            parameters = {} if name == "bearer" else None
        elif parameters is not None:
            parameters.setdefault(name, _unquoted(value))
    if parameters is None:
        return Challenge()
    return Challenge(
        parameters.get("error", ""),
        parameters.get("resource_metadata", ""),
        words(parameters.get("scope", "").split()),
        parameters,
    )


def words(scopes: Sequence[str]) -> tuple[str, ...]:
    """The scopes among them that are well-formed (RFC 6749, 3.3), each once, the first 32."""
    found = dict.fromkeys(scope for scope in scopes if len(scope) <= _SCOPE and _SCOPE_TOKEN.fullmatch(scope))
    return tuple(found)[:_SCOPES]


def _unquoted(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
