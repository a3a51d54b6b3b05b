"""The values that the expressions of a step see: the input, the steps before it, the items of the maps around it.

Only what an expression refers to is looked up, so that evaluating one costs the same however long the run is.
"""

from collections.abc import Iterator, Mapping
from typing import cast

from pydantic import JsonValue

from slipway_orchestrator.core.actions import Instance
from slipway_orchestrator.core.definition import Definition, Map, Step
from slipway_orchestrator.core.state import FINISHED, Phase, RunState, StepState
from slipway_orchestrator.expressions.evaluation import Evaluator, ExpressionFailed, Names
from slipway_orchestrator.expressions.schemas import as_declared
from slipway_orchestrator.expressions.template import render

INDEX = "index"


class Scope:
    """Names of a definition's expressions, over the state of one run."""

    def __init__(self, definition: Definition, evaluator: Evaluator) -> None:
        self._definition = definition
        self._evaluator = evaluator
        self._around: dict[str, tuple[Step, ...]] = dict(_maps_around(definition.steps, ()))
        self._lists: dict[str, list[JsonValue]] = {}
        """What each map that is under way goes over."""
        self._declared: tuple[JsonValue, JsonValue] | None = None

    async def names(self, state: RunState, at: Instance | None, seen: "Seen | None" = None) -> Names:
        """What expressions of the step see; of the result for None. `seen` is told of what came from outside.

        Raises ExpressionFailed.
        """
        seen = Seen() if seen is None else seen
        if state.started is not None and state.started.tainted:
            seen.tainted = True
        given = state.started.input if state.started else None
        if self._declared is None or self._declared[0] is not given:
            self._declared = given, as_declared(dict(self._definition.input_schema), given)
        indices = () if at is None else at.indices
        steps = _Steps(state, self._around, indices, seen)
        items = {} if at is None else await self._items(state, at, seen)
        # A mapping that is read, and never written as JSON: only what expressions reach is.
        view = cast(JsonValue, steps)
        return Names({"input": given, "steps": view, **items}, {"input": self._declared[1], "steps": view, **items})

    async def items_of(self, state: RunState, at: Instance, seen: "Seen | None" = None) -> list[JsonValue]:
        """The list that a map goes over. Raises ExpressionFailed."""
        call = at.step.call
        if not isinstance(call, Map):
            raise TypeError(f"step {at.key} is no map")
        if at.key not in self._lists:
            names = await self.names(state, at, seen)
            value = await render(call.over, lambda source: self._evaluator.evaluate(source, names))
            if not isinstance(value, list):
                raise ExpressionFailed(f"a map goes over a list, not over {_kind(value)}")
            self._lists[at.key] = value
        return self._lists[at.key]

    async def _items(self, state: RunState, at: Instance, seen: "Seen") -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {}
        for depth, step in enumerate(self._around.get(at.step.step_id, ())[: len(at.indices)]):
            suffix = "".join(f"[{index}]" for index in at.indices[:depth])
            around = Instance(step, step.step_id + suffix, at.indices[:depth])
            items, index = await self.items_of(state, around), at.indices[depth]
            if index >= len(items):
                raise ExpressionFailed(f"{around.key} had more items when it began than it has now")
            map_state = state.steps.get(around.key)
            seen.tainted = seen.tainted or (map_state is not None and map_state.input_tainted)
            name = step.call.name if isinstance(step.call, Map) else ""
            found[name], found[INDEX] = items[index], index
        return found


class Seen:
    """What expressions have looked at."""

    def __init__(self) -> None:
        self.tainted = False
        """Something came from outside, or derives from what did."""


class _Steps(Mapping[str, JsonValue]):
    """`steps` in expressions: null for a step that did not run."""

    def __init__(
        self, state: RunState, around: Mapping[str, tuple[Step, ...]], indices: tuple[int, ...], seen: Seen
    ) -> None:
        self._noted = seen
        self._state = state
        self._around = around
        self._indices = indices

    def __getitem__(self, name: str) -> JsonValue:
        maps = self._around[name]
        known = self._state.steps.get(name + "".join(f"[{index}]" for index in self._indices[: len(maps)]))
        if known is not None and known.tainted:
            self._noted.tainted = True
        return _seen(known)

    def __contains__(self, name: object) -> bool:
        return name in self._around

    def __iter__(self) -> Iterator[str]:
        return iter(self._around)

    def __len__(self) -> int:
        return len(self._around)


def _seen(known: StepState | None) -> JsonValue:
    """What expressions see of a step."""
    if known is None or known.phase not in FINISHED:
        return {"output": None, "error": None}
    failed = known.phase is Phase.CONTINUED and known.error is not None
    error: JsonValue = {"code": known.error[0], "message": known.error[1]} if failed and known.error else None
    return {"output": known.output, "error": error}


def _maps_around(steps: tuple[Step, ...], maps: tuple[Step, ...]) -> Iterator[tuple[str, tuple[Step, ...]]]:
    for step in steps:
        yield step.step_id, maps
        inner = (*maps, step) if isinstance(step.call, Map) else maps
        for block in step.blocks:
            yield from _maps_around(block, inner)


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case _:
            return "an object"
