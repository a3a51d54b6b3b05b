"""What a step that holds others comes to."""

import json
from dataclasses import dataclass

from pydantic import JsonValue

from slipway_orchestrator.core.actions import Instance
from slipway_orchestrator.core.definition import Branch, Map, Parallel, Step
from slipway_orchestrator.core.state import Phase, RunState, StepState

MAX_OUTPUT = 8 << 20
"""Bytes of JSON of a map's or parallel step's output."""


@dataclass(frozen=True, slots=True)
class Output:
    """The output."""

    value: JsonValue
    tainted: bool
    """Part of it came from outside."""


def output_of(state: RunState, at: Instance, known: StepState) -> Output | None:
    """The output of a step whose inner steps are all finished; None when it is too large."""
    suffix = "".join(f"[{index}]" for index in at.indices)
    value: JsonValue
    keys: list[str] = []
    match at.step.call:
        case Parallel(steps=steps):
            keys = [step.step_id + suffix for step in steps]
            outputs = {step.step_id: _output(state, key) for step, key in zip(steps, keys, strict=True)}
            value = outputs if at.step.named else None
        case Branch():
            value = known.input
        case Map(steps=steps):
            count = known.input["count"] if isinstance(known.input, dict) else 0
            last = steps[-1].step_id + suffix
            keys = [f"{last}[{index}]" for index in range(count if isinstance(count, int) else 0)]
            value = [_output(state, key) for key in keys]
        case other:
            raise TypeError(f"{type(other).__name__} holds no steps")
    if len(json.dumps(value)) > MAX_OUTPUT:
        return None
    tainted = state.tainted and any(key in state.steps and state.steps[key].tainted for key in keys)
    return Output(value, tainted)


def _output(state: RunState, key: str) -> JsonValue:
    known = state.steps.get(key)
    return None if known is None else known.output


def failing_step(state: RunState, at: Instance) -> str:
    """The key of the innermost step that made a step fail."""
    suffix = "".join(f"[{index}]" for index in at.indices)
    for step, key, indices in _children(state, at, suffix):
        known = state.steps.get(key)
        if known is not None and known.phase is Phase.FAILED:
            return failing_step(state, Instance(step, key, indices))
    return at.key


def _children(state: RunState, at: Instance, suffix: str) -> "list[tuple[Step, str, tuple[int, ...]]]":
    if not isinstance(at.step.call, Map):
        return [(step, step.step_id + suffix, at.indices) for block in at.step.blocks for step in block]
    known = state.steps.get(at.key)
    count = known.input.get("count") if known is not None and isinstance(known.input, dict) else 0
    return [
        (step, f"{step.step_id}{suffix}[{index}]", (*at.indices, index))
        for index in range(count if isinstance(count, int) else 0)
        for step in at.step.call.steps
    ]
