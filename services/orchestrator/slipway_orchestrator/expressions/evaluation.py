"""Evaluation that cannot hold a worker.

The library has no cost limit and even one comprehension is quadratic (measured: 50,000 items, 52 s). So a single path
is looked up without it; an expression without comprehensions over little input is evaluated in place, where its cost
is bounded by its size; anything else is evaluated in a process that is killed when its time is up.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, cast

from pydantic import JsonValue

from slipway_orchestrator.expressions.references import Path, References, references

if TYPE_CHECKING:
    import cel

MAX_EXPRESSION = 4096
"""Characters of one expression."""
MAX_INPUT = 1 << 20
"""Bytes of JSON that one expression may look at."""
MAX_RESULT = 1 << 20
"""Bytes of JSON that it may come to."""
IN_PLACE_COST = 4 << 20
"""Bytes of input times references squared, up to which evaluation in place is quick (about 10 ms)."""

_NO_OVERLOAD = re.compile(r"Undefined variable or function: '(\w+)'")


class ExpressionFailed(Exception):
    """An expression has no value for these inputs; the message says why."""


class ExpressionTooCostly(ExpressionFailed):
    """An expression took too long, or its input or result is too large."""


class SlowLane(Protocol):
    """Evaluates where it can be stopped: `expressions.sandbox.EvaluationProcess`."""

    async def evaluate(self, expression: str, names: Mapping[str, JsonValue]) -> JsonValue:
        """The value; raises ExpressionFailed or ExpressionTooCostly."""
        ...


@lru_cache(maxsize=2048)
def compiled(expression: str) -> "cel.Program":
    """The compiled expression. ValueError with the parser's message when it does not compile."""
    import cel

    return cel.compile(expression)


@lru_cache(maxsize=2048)
def used(expression: str) -> References:
    """`references`, remembered."""
    return references(expression)


@dataclass(frozen=True, slots=True)
class Names:
    """The values that expressions see."""

    exact: Mapping[str, JsonValue]
    """As they are in the journal: what a whole path comes to."""
    declared: Mapping[str, JsonValue]
    """With numbers as their schemas declare them: CEL does not mix whole numbers and fractions."""

    def with_value(self, name: str, value: JsonValue) -> "Names":
        """The same names and one more."""
        return Names({**self.exact, name: value}, {**self.declared, name: value})


class Evaluator:
    """Evaluates expressions over `input` and `steps`."""

    def __init__(self, slow_lane: SlowLane) -> None:
        self._slow_lane = slow_lane

    async def evaluate(self, expression: str, names: Names) -> JsonValue:
        """The value as JSON. Raises ExpressionFailed or ExpressionTooCostly."""
        refs = used(expression)
        if refs.whole and len(refs.paths) == 1:
            return look_up(names.exact, refs.paths[0])
        needed = only(names.declared, refs.paths)
        size = len(json.dumps(needed, ensure_ascii=False))
        if size > MAX_INPUT:
            raise ExpressionTooCostly(f"the expression looks at {size} bytes, at most {MAX_INPUT} are allowed")
        cost = size * max(len(refs.paths), 1) ** 2
        if refs.comprehensions == 0 and cost <= IN_PLACE_COST:
            return evaluate_here(expression, needed)
        return await self._slow_lane.evaluate(expression, needed)


def evaluate_here(expression: str, names: Mapping[str, JsonValue]) -> JsonValue:
    """Evaluate in this process. Raises ExpressionFailed or ExpressionTooCostly."""
    try:
        value = compiled(expression).execute(dict(names))
    except KeyError as error:
        raise ExpressionFailed(f"there is no {error.args[0]!r}") from error
    except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        # Registration lets known functions pass only: the library says so of a function that has no overload.
        overload = _NO_OVERLOAD.match(str(error))
        raise ExpressionFailed(f"{overload[1]}() takes no such value" if overload else str(error)) from error
    result = as_json(value)
    if len(json.dumps(result, ensure_ascii=False)) > MAX_RESULT:
        raise ExpressionTooCostly(f"the value is larger than {MAX_RESULT} bytes")
    return result


def look_up(names: Mapping[str, JsonValue], path: Path) -> JsonValue:
    """The value at a path. Raises ExpressionFailed that names the member which is missing."""
    value: JsonValue = cast(JsonValue, names)
    for depth, key in enumerate(path):
        if isinstance(value, Mapping) and isinstance(key, str) and key in value:
            value = value[key]
            continue
        if isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
            continue
        before = _shown(path[:depth])
        if value is None:
            raise ExpressionFailed(f"{before} is null, so it has no {key!r}")
        raise ExpressionFailed(f"{before or 'the context'} has no {key!r}")
    return value


def only(names: Mapping[str, JsonValue], paths: tuple[Path, ...]) -> dict[str, JsonValue]:
    """What the paths can reach: whole outputs of the steps named, whole properties of the input."""
    needed: dict[str, JsonValue] = {}
    for path in paths:
        root, value = str(path[0]), names.get(str(path[0]))
        if root not in names:
            continue
        member = path[1] if len(path) > 1 else None
        if isinstance(value, Mapping) and isinstance(member, str):
            kept = needed.setdefault(root, {})
            if isinstance(kept, dict) and member in value:
                kept[member] = value[member]
        else:
            needed[root] = value
    for path in paths:  # a bare `input` beside `input.x` needs all of it
        if len(path) == 1 and path[0] in names:
            needed[str(path[0])] = names[str(path[0])]
    return needed


def as_json(value: object) -> JsonValue:
    """A CEL value as JSON: times as RFC 3339, durations as seconds (`90s`). Raises ExpressionFailed for bytes."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise ExpressionFailed("the value is not a finite number")
            return value
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case timedelta():
            return f"{value.total_seconds():g}s"
        case list() | tuple():
            return [as_json(item) for item in cast(list[object], value)]
        case dict():
            return {_key(key): as_json(item) for key, item in cast(dict[object, object], value).items()}
        case _:
            raise ExpressionFailed(f"a value of type {type(value).__name__} has no JSON form")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ExpressionFailed("the keys of a map must be strings")
    return key


def _shown(path: Path) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")
