"""`fold`: a run's state is a pure function of its journal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import Enum, auto
from types import MappingProxyType

import rfc8785
from pydantic import JsonValue

from slipway_orchestrator.core.events import (
    TERMINAL,
    ApprovalDecided,
    ApprovalRequested,
    Event,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepUncertain,
    Usage,
    step_of,
)


class Phase(Enum):
    """Where a step stands."""

    GATED = auto()
    """An approval is asked for."""
    DECIDED = auto()
    """The approval is settled, what it means is not yet journalled."""
    STARTED = auto()
    """Intent journalled, result not."""
    RETRYING = auto()
    """Waits for its next attempt."""
    UNCERTAIN = auto()
    """The effect may or may not have happened."""
    COMPLETED = auto()
    SKIPPED = auto()
    FAILED = auto()
    """Ended in an error that ends the run."""
    CONTINUED = auto()
    """Ended in an error that the definition lets pass; the value is null."""


FINISHED = frozenset({Phase.COMPLETED, Phase.SKIPPED, Phase.CONTINUED})


@dataclass(frozen=True, slots=True)
class StepState:
    """One step so far."""

    phase: Phase
    attempt: int = 0
    occurrence: int = 1
    input: JsonValue = None
    output: JsonValue = None
    approval: ApprovalRequested | None = None
    decision: ApprovalDecided | None = None
    retry_at: datetime | None = None
    error: tuple[str, str] | None = None
    """Code and message of a failure."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What the run used so far."""

    steps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class RunState:
    """A run so far."""

    started: RunStarted | None = None
    start_time: datetime | None = None
    steps: Mapping[str, StepState] = field(default_factory=lambda: MappingProxyType({}))
    totals: Totals = Totals()
    tool_errors: int = 0
    """Tool errors in a row, the newest last."""
    calls: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """How often each call (tool and canonical arguments) was begun."""
    ended: Event | None = None

    def outputs(self) -> dict[str, JsonValue]:
        """Outputs of the steps that are finished; null for a skipped one."""
        return {name: step.output for name, step in self.steps.items() if step.phase in FINISHED}


def call_key(tool: str, arguments: JsonValue) -> str:
    """The same for two calls of one tool whose arguments are the same JSON value."""
    return tool + "\n" + rfc8785.dumps(arguments).decode()


def fold(events: Iterable[tuple[datetime, Event]], state: RunState | None = None) -> RunState:
    """The state after these events, from `state` on (default: the beginning)."""
    current = RunState() if state is None else state
    for time, event in events:
        current = apply(current, time, event)
    return current


def apply(state: RunState, time: datetime, event: Event) -> RunState:
    """The state after one more event."""
    if isinstance(event, TERMINAL):
        return replace(state, ended=event)
    if isinstance(event, RunStarted):
        return replace(state, started=event, start_time=time)
    step_id = step_of(event)
    if step_id is None:
        return state
    step = _step(state.steps.get(step_id), event)
    if step is None:
        return state
    changed = replace(state, steps=MappingProxyType({**state.steps, step_id: step}))
    return _counted(changed, event)


def _step(before: StepState | None, event: Event) -> StepState | None:
    match event:
        case ApprovalRequested():
            known = before or StepState(Phase.GATED)
            return replace(known, phase=Phase.GATED, approval=event, decision=None)
        case ApprovalDecided():
            return replace(before or StepState(Phase.DECIDED), phase=Phase.DECIDED, decision=event)
        case StepStarted(attempt=attempt, input=value, occurrence=occurrence):
            known = before or StepState(Phase.STARTED)
            return replace(
                known, phase=Phase.STARTED, attempt=attempt, occurrence=occurrence, input=value, retry_at=None
            )
        case StepCompleted(output=output):
            return replace(before or StepState(Phase.COMPLETED), phase=Phase.COMPLETED, output=output)
        case StepSkipped():
            return StepState(Phase.SKIPPED)
        case StepRetrying(retry_at=retry_at, code=code, message=message, performed=performed):
            known = before or StepState(Phase.RETRYING)
            occurrence = known.occurrence + 1 if performed else known.occurrence
            return replace(known, phase=Phase.RETRYING, retry_at=retry_at, error=(code, message), occurrence=occurrence)
        case StepUncertain(code=code, message=message):
            return replace(before or StepState(Phase.UNCERTAIN), phase=Phase.UNCERTAIN, error=(code, message))
        case StepFailed(handled=handled, code=code, message=message):
            phase = Phase.CONTINUED if handled else Phase.FAILED
            return replace(before or StepState(phase), phase=phase, error=(code, message))
        case _:
            return None


def _counted(state: RunState, event: Event) -> RunState:
    totals = state.totals
    match event:
        case StepStarted(attempt=1):
            return replace(state, totals=replace(totals, steps=totals.steps + 1), calls=_called(state, event))
        case StepCompleted() | StepFailed() | StepRetrying():
            usage = event.usage or Usage(0, 0)
            totals = replace(
                totals,
                input_tokens=totals.input_tokens + usage.input_tokens,
                output_tokens=totals.output_tokens + usage.output_tokens,
                cost_usd=totals.cost_usd + (event.cost_usd or Decimal(0)),
            )
            errors = state.tool_errors
            if isinstance(event, StepCompleted):
                errors = 0 if event.type == "tool" else errors
            elif event.tool_error:
                errors += 1
            return replace(state, totals=totals, tool_errors=errors)
        case _:
            return state


def _called(state: RunState, event: StepStarted) -> Mapping[str, int]:
    if event.type != "tool" or not isinstance(event.input, dict):
        return state.calls
    key = call_key(str(event.input["tool"]), event.input["arguments"])
    return MappingProxyType({**state.calls, key: state.calls.get(key, 0) + 1})
