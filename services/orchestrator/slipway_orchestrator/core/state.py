"""`fold`: a run's state is a pure function of its journal.

States are changed in place, and each event costs the same however long the journal is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from enum import Enum, auto
from typing import Any

from pydantic import JsonValue

from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalReminded,
    ApprovalRequested,
    ApprovalVoted,
    CancelRequested,
    Event,
    LimitsRaised,
    LoopDetected,
    RaisedLimits,
    RunCancelled,
    RunFailed,
    RunForked,
    RunPaused,
    RunRecovered,
    RunResumed,
    RunStarted,
    RunSucceeded,
    RunWaiting,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepUncertain,
    Usage,
)
from slipway_orchestrator.core.progress import Progress, call_key


class Phase(Enum):
    """Where a step stands."""

    GATED = auto()
    """An approval is asked for."""
    DECIDED = auto()
    """The approval is settled, what it means is not yet journalled."""
    STARTED = auto()
    """Intent journalled, result not; of steps within which others stand: not all of them have ended."""
    RETRYING = auto()
    """Waits for its next attempt."""
    UNCERTAIN = auto()
    """The effect may or may not have happened."""
    ESCALATED = auto()
    """Failed, and a person is to be asked what becomes of it."""
    COMPLETED = auto()
    SKIPPED = auto()
    FAILED = auto()
    """Ended in an error that ends what it stands in."""
    CONTINUED = auto()
    """Ended in an error that the definition lets pass; the value is null."""


FINISHED = frozenset({Phase.COMPLETED, Phase.SKIPPED, Phase.CONTINUED})


@dataclass(slots=True)
class StepState:
    """One step so far."""

    phase: Phase
    attempt: int = 0
    occurrence: int = 1
    input: JsonValue = None
    output: JsonValue = None
    approval: ApprovalRequested | None = None
    decision: ApprovalDecided | None = None
    asked_at: datetime | None = None
    """When the approval was asked for, or somebody was reminded of it last."""
    reminders: int = 0
    votes: tuple[ApprovalVoted, ...] = ()
    retry_at: datetime | None = None
    until: datetime | None = None
    child_run_id: str | None = None
    error: tuple[str, str] | None = None
    """Code and message of the last failure."""
    handler: str | None = None
    """Where the sequence goes on after an error, if not at the next step."""
    holds: bool = False
    """It does nothing but hold other steps."""
    stdout: str | None = None
    stderr: str | None = None
    input_tainted: bool = False
    """Its input derives from what came from outside."""
    tainted: bool = False
    """So does its output."""


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
class Fatal:
    """An error that no step may handle."""

    code: str
    message: str
    key: str


@dataclass(slots=True)
class RunState:
    """A run so far."""

    started: RunStarted | None = None
    start_time: datetime | None = None
    steps: dict[str, StepState] = field(default_factory=dict[str, StepState])
    """By step key."""
    totals: Totals = Totals()
    tool_errors: int = 0
    """Tool errors in a row, the newest last."""
    calls: dict[str, int] = field(default_factory=dict[str, int])
    """How often each call (tool and canonical arguments) was begun."""
    progress: Progress = field(default_factory=Progress)
    signals: dict[str, list[SignalReceived]] = field(default_factory=dict[str, list[SignalReceived]])
    """Those that no step has taken yet, by name, the oldest first."""
    raised: RaisedLimits = field(default_factory=RaisedLimits)
    paused: RunPaused | None = None
    cancel: CancelRequested | None = None
    fatal: Fatal | None = None
    waiting: RunWaiting | None = None
    """The last event, if it is this."""
    ended: Event | None = None
    tainted: bool = False
    """Something in it came from outside."""
    cursors: dict[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)
    """How far the deciders have come: remembered, not known; it follows from the rest."""


def fold(events: Iterable[tuple[datetime, Event]], state: RunState | None = None) -> RunState:
    """The state after these events; `state` itself, changed, when one is given."""
    current = RunState() if state is None else state
    for time, event in events:
        apply(current, time, event)
    return current


def apply(state: RunState, time: datetime, event: Event) -> RunState:
    """Change the state by one more event; the same object."""
    state.waiting = None
    _APPLY[type(event)](state, time, event)
    return state


def _step(state: RunState, key: str) -> StepState:
    known = state.steps.get(key)
    if known is None:
        known = state.steps[key] = StepState(Phase.STARTED)
    return known


def _started(state: RunState, time: datetime, event: RunStarted) -> None:
    """Its time begins when it may begin."""
    state.started, state.start_time = event, max(time, event.not_before or time)
    state.tainted = bool(event.tainted)


def _forked(state: RunState, time: datetime, _event: RunForked) -> None:
    """What the other run had not finished is decided anew, and this run's time begins.

    Of what was in doubt, or escalated, a person is asked again: it is not done blindly here either.
    """
    state.start_time = time
    state.ended = state.paused = state.cancel = state.fatal = None
    state.tool_errors, state.progress = 0, Progress()
    state.cursors.clear()
    for key, step in list(state.steps.items()):
        if step.phase in (Phase.GATED, Phase.DECIDED) and step.approval is not None and step.approval.escalation:
            step.phase = Phase.ESCALATED
        elif step.holds and step.phase in (Phase.STARTED, Phase.FAILED):
            step.phase, step.error = Phase.STARTED, None
        elif step.phase not in FINISHED and step.phase not in (Phase.UNCERTAIN, Phase.ESCALATED):
            _forget(state, key, step)


def _forget(state: RunState, key: str, step: StepState) -> None:
    """As if the step had never begun."""
    del state.steps[key]
    if step.attempt == 0:
        return
    state.totals = replace(state.totals, steps=state.totals.steps - 1)
    if isinstance(step.input, dict) and "tool" in step.input and "arguments" in step.input:
        called = call_key(str(step.input["tool"]), step.input["arguments"])
        if state.calls.get(called, 0) > 0:
            state.calls[called] -= 1


def _waiting(state: RunState, _time: datetime, event: RunWaiting) -> None:
    state.waiting = event


def _paused(state: RunState, _time: datetime, event: RunPaused) -> None:
    state.paused = event


def _resumed(state: RunState, _time: datetime, _event: RunResumed) -> None:
    """Somebody looked at it: what was counted in a row begins anew."""
    state.paused = None
    state.tool_errors = 0
    _go_on(state)


def _go_on(state: RunState) -> None:
    """What has stopped the run does so no more."""
    state.progress = Progress()
    for step in state.steps.values():
        if step.phase is Phase.RETRYING and step.error is not None and step.error[0] == "LIMIT_COST":
            step.error = None


def _raised(state: RunState, _time: datetime, event: LimitsRaised) -> None:
    new = {item.name: value for item in fields(event.limits) if (value := getattr(event.limits, item.name)) is not None}
    state.raised = replace(state.raised, **new)
    if state.paused is not None and state.paused.code.startswith(("LIMIT_", "LOOP_")):
        state.paused = None
        _go_on(state)


def _signalled(state: RunState, _time: datetime, event: SignalReceived) -> None:
    state.signals.setdefault(event.name, []).append(event)


def _cancelling(state: RunState, _time: datetime, event: CancelRequested) -> None:
    state.cancel = event


def _ended(state: RunState, _time: datetime, event: Event) -> None:
    state.ended = event


def _nothing(_state: RunState, _time: datetime, _event: Event) -> None:
    """The event changes nothing of what comes next."""


def _asked(state: RunState, time: datetime, event: ApprovalRequested) -> None:
    step = _step(state, event.step_id)
    step.phase, step.approval, step.decision = Phase.GATED, event, None
    step.input_tainted = step.input_tainted or bool(event.tainted)
    step.asked_at, step.reminders, step.votes = time, 0, ()


def _reminded(state: RunState, time: datetime, event: ApprovalReminded) -> None:
    step = _step(state, event.step_id)
    step.asked_at, step.reminders = time, event.count


def _voted(state: RunState, _time: datetime, event: ApprovalVoted) -> None:
    step = _step(state, event.step_id)
    step.votes = (*step.votes, event)


def _decided(state: RunState, _time: datetime, event: ApprovalDecided) -> None:
    step = _step(state, event.step_id)
    step.phase, step.decision = Phase.DECIDED, event


def _intent(state: RunState, _time: datetime, event: StepStarted) -> None:
    step = _step(state, event.step_id)
    step.phase, step.attempt, step.occurrence, step.input = (
        Phase.STARTED,
        event.attempt,
        event.occurrence,
        event.input,
    )
    step.retry_at, step.until, step.child_run_id = None, event.until, event.child_run_id
    step.input_tainted = bool(event.tainted)
    step.holds = event.type in CONTAINERS
    if event.attempt == 1 and event.type not in CONTAINERS:
        state.totals = replace(state.totals, steps=state.totals.steps + 1)
    if event.type == "tool" and event.attempt == 1 and isinstance(event.input, dict):
        key = call_key(str(event.input["tool"]), event.input["arguments"])
        state.calls[key] = state.calls.get(key, 0) + 1


def _skipped(state: RunState, _time: datetime, event: StepSkipped) -> None:
    state.steps[event.step_id] = StepState(Phase.SKIPPED)


def _completed(state: RunState, _time: datetime, event: StepCompleted) -> None:
    step = _step(state, event.step_id)
    step.phase, step.output = Phase.COMPLETED, event.output
    step.stdout, step.stderr = event.stdout, event.stderr
    step.tainted = bool(event.tainted)
    state.tainted = state.tainted or step.tainted
    if event.type == "wait":
        _take_signal(state, step, event)
    elif event.type == "tool":
        state.tool_errors = 0
        state.progress.note(event.step_id, step.input, event.output)
    _use(state, event.usage, event.cost_usd)


def _take_signal(state: RunState, step: StepState, event: StepCompleted) -> None:
    name = step.input.get("signal") if isinstance(step.input, dict) else None
    if isinstance(name, str) and event.output is not None and (queue := state.signals.get(name)):
        queue.pop(0)


def _retrying(state: RunState, _time: datetime, event: StepRetrying) -> None:
    step = _step(state, event.step_id)
    step.phase, step.retry_at, step.error = Phase.RETRYING, event.retry_at, (event.code, event.message)
    if event.performed:
        step.occurrence += 1
    if event.tool_error:
        state.tool_errors += 1
    _use(state, event.usage, event.cost_usd)


def _in_doubt(state: RunState, _time: datetime, event: StepUncertain) -> None:
    step = _step(state, event.step_id)
    step.phase, step.error = Phase.UNCERTAIN, (event.code, event.message)


def _failed(state: RunState, _time: datetime, event: StepFailed) -> None:
    step = _step(state, event.step_id)
    step.error, step.handler = (event.code, event.message), event.handler
    step.stdout, step.stderr = event.stdout, event.stderr
    if event.escalated:
        step.phase = Phase.ESCALATED
        if event.performed:
            step.occurrence += 1
    else:
        step.phase = Phase.CONTINUED if event.handled else Phase.FAILED
    if event.fatal and state.fatal is None:
        state.fatal = Fatal(event.code, event.message, event.step_id)
    if event.tool_error:
        state.tool_errors += 1
        state.progress.note(event.step_id, step.input, f"{event.code}: {event.message}")
    _use(state, event.usage, event.cost_usd)


def _use(state: RunState, usage: Usage | None, cost_usd: Decimal | None) -> None:
    if usage is None and cost_usd is None:
        return
    used, totals = usage or Usage(0, 0), state.totals
    state.totals = replace(
        totals,
        input_tokens=totals.input_tokens + used.input_tokens,
        output_tokens=totals.output_tokens + used.output_tokens,
        cost_usd=totals.cost_usd + (cost_usd or Decimal(0)),
    )


CONTAINERS = frozenset({"parallel", "map", "branch"})
"""Types of steps that do nothing but hold others: they count for no limit."""

_APPLY: Mapping[type, Callable[[RunState, datetime, Any], None]] = {
    RunStarted: _started,
    RunForked: _forked,
    RunRecovered: _nothing,
    RunWaiting: _waiting,
    RunPaused: _paused,
    RunResumed: _resumed,
    LimitsRaised: _raised,
    SignalReceived: _signalled,
    LoopDetected: _nothing,
    CancelRequested: _cancelling,
    **dict.fromkeys((RunSucceeded, RunFailed, RunCancelled), _ended),
    StepStarted: _intent,
    StepSkipped: _skipped,
    StepCompleted: _completed,
    StepFailed: _failed,
    StepRetrying: _retrying,
    StepUncertain: _in_doubt,
    ApprovalRequested: _asked,
    ApprovalReminded: _reminded,
    ApprovalVoted: _voted,
    ApprovalDecided: _decided,
}
