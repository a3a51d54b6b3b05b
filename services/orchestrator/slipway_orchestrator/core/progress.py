"""Whether a run gets anywhere: what it called, what came of it, and what that repeats."""

import hashlib
import json
from dataclasses import dataclass, field

import rfc8785
from pydantic import JsonValue

_LONGEST_CYCLE = 4
"""Calls of one round."""
_ROUNDS = 2
_REMEMBERED = _LONGEST_CYCLE * _ROUNDS


@dataclass(frozen=True, slots=True)
class Loop:
    """What a run does over and over."""

    pattern: str
    """`REPEAT`, `CYCLE` or `NO_PROGRESS`."""
    message: str
    evidence: JsonValue


@dataclass(frozen=True, slots=True)
class _Result:
    key: str
    """Of the step."""
    tool: str
    call: bytes
    whole: bytes
    """Digest of the call and what came of it."""


@dataclass(slots=True)
class Progress:
    """The last results, and how many of them in a row told nothing new. Costs the same for each result."""

    recent: list[_Result] = field(default_factory=list[_Result])
    known: set[bytes] = field(default_factory=set[bytes])
    stale: int = 0

    def note(self, key: str, call: JsonValue, result: JsonValue) -> None:
        """One more call has come to a result."""
        called, tool = _digest(call), call.get("tool") if isinstance(call, dict) else None
        whole = hashlib.sha256(called + _digest(result)).digest()
        self.stale = self.stale + 1 if whole in self.known else 0
        self.known.add(whole)
        self.recent.append(_Result(key, str(tool or ""), called, whole))
        del self.recent[:-_REMEMBERED]

    def cycle(self) -> Loop | None:
        """The same two to four calls with the same results, twice in a row."""
        for length in range(2, _LONGEST_CYCLE + 1):
            last = self.recent[-length * _ROUNDS :]
            if len(last) < length * _ROUNDS or len({result.call for result in last[:length]}) == 1:
                continue
            if [result.whole for result in last[:length]] == [result.whole for result in last[length:]]:
                tools = [result.tool for result in last[:length]]
                return Loop(
                    "CYCLE",
                    f"the calls {', '.join(tools)} came in the same order, with the same results, {_ROUNDS} times",
                    {"calls": list[JsonValue](tools), "steps": [result.key for result in last], "rounds": _ROUNDS},
                )
        return None

    def standstill(self, results: int) -> Loop | None:
        """So many results in a row that were all known before."""
        if self.stale < results:
            return None
        shown = [result.key for result in self.recent]
        return Loop(
            "NO_PROGRESS",
            f"the last {self.stale} results told nothing new",
            {"results": self.stale, "steps": list[JsonValue](shown)},
        )


def call_key(tool: str, arguments: JsonValue) -> str:
    """The same for two calls of one tool whose arguments are the same JSON value."""
    return tool + "\n" + rfc8785.dumps(arguments).decode()


def _digest(value: JsonValue) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
