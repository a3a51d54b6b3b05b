"""Deciding a journal once more: what each event rests on is given, what was decided must come out again.

Given are what people, executors and child runs said. Decided are intents, skips, gates, joins, limits and the end. The
walk decides before each event from the state that the events before it make, as the worker did; ids and times that a
worker makes up count for nothing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pydantic import JsonValue

from slipway_orchestrator.core.actions import Action, Append, Ask, Begin, Conclude, Park, Spawn
from slipway_orchestrator.core.definition import AgentCall, Definition, ToolCall
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    ApprovalVoted,
    CancelRequested,
    Event,
    LimitsRaised,
    LoopDetected,
    RunCancelled,
    RunFailed,
    RunForked,
    RunPaused,
    RunRecovered,
    RunResumed,
    RunStarted,
    RunWaiting,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
    StepUncertain,
    encode,
    step_of,
)
from slipway_orchestrator.core.loop.decider import decider_of
from slipway_orchestrator.core.state import CONTAINERS, Phase, RunState, apply
from slipway_orchestrator.definitions.catalogue import ToolDescription
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.worker.asking import ask
from slipway_orchestrator.worker.beginning import Beginning, Calls

_MADE_UP = ("approval_id", "child_run_id", "until", "expire_time", "records", "retry_at", "duration_ms")
_TOLD = (RunStarted, RunRecovered, RunForked, RunResumed, LimitsRaised, SignalReceived, CancelRequested, ApprovalVoted)
_OF_ITSELF = frozenset({"set", "wait", "approval"}) | CONTAINERS
"""Types of steps that perform nothing."""
_BY_WORKER = frozenset({"RUN_STUCK", "DEFINITION_UNREADABLE"})
_BREATHE = 50
"""Events between moments for other work of the process."""

Row = tuple[int, datetime, Event]
"""Sequence number, time and event."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the replay leaves the journal."""

    seq: int
    journalled: Event
    decided: Event | None
    """None: nothing would be decided there."""

    @property
    def message(self) -> str:
        """One sentence."""
        step = step_of(self.journalled)
        at = f" of step {step}" if step else ""
        if self.decided is None:
            return f"{self.journalled.kind}{at} would not be decided now"
        if self.decided.kind == self.journalled.kind and step_of(self.decided) == step:
            return f"{self.journalled.kind}{at} would be decided with other data"
        other = step_of(self.decided)
        return f"{self.decided.kind}{f' of step {other}' if other else ''} would be decided, not {self.journalled.kind}"


class Replay:
    """One replay of one run."""

    def __init__(self, definition: Definition, evaluator: Evaluator, *, related: bool) -> None:
        """`related`: the run had a parent or children, whose use of the tree's budget its own journal does not tell."""
        self._definition = definition
        self._decider = decider_of(definition)
        self._beginning = Beginning(definition, evaluator)
        self._related = related
        self._state = RunState()
        self._following: tuple[Event, ...] = ()
        """What was decided together with the last event."""
        self._left: tuple[Action, ...] = ()
        """What the last decision let happen beside the last event."""

    async def run(self, rows: Sequence[Row]) -> Difference | None:
        """The first difference, or None."""
        # What a fork copied was decided by another run.
        first = max((number for number, row in enumerate(rows) if isinstance(row[2], RunForked)), default=-1) + 1
        before: datetime | None = None
        for number, (seq, time, event) in enumerate(rows):
            if number % _BREATHE == 0:
                await asyncio.sleep(0)
            if number >= first:
                found = await self._check(event, time, before or time)
                if found is not _SAME:
                    return Difference(seq, event, found.decided)
            apply(self._state, time, event)
            before = time
        return None

    async def _check(self, event: Event, time: datetime, before: datetime) -> "_Verdict":
        if self._following:
            expected, self._following = self._following[0], self._following[1:]
            return _SAME if _same(expected, event) else _Verdict(expected)
        if self._is_given(event):
            return _SAME
        verdict = _Verdict(None)
        # A worker decides a moment before it writes.
        for now in (time, before):
            actions = self._decider.decide(self._state, now)
            verdict = await self._among(actions, event, now, verdict)
            if verdict is _SAME:
                self._left = actions
                return _SAME
        return await self._among(self._left, event, time, verdict)

    async def _among(self, actions: Sequence[Action], event: Event, now: datetime, verdict: "_Verdict") -> "_Verdict":
        """Whether one of the actions comes to the event; if not, `verdict`, or what would be decided instead."""
        for action in actions:
            if not _may_come_to(action, event):
                continue
            if _depends_on_others(action, event):
                return _SAME
            group = await self._events_of(action, now)
            if not group:
                continue
            for position, candidate in enumerate(group):
                if _same(candidate, event) and (position == 0 or isinstance(action, Append)):
                    self._following = group[position + 1 :]
                    return _SAME
            if verdict.decided is None:
                verdict = _Verdict(group[0])
        return verdict

    async def _events_of(self, action: Action, now: datetime) -> tuple[Event, ...]:
        state = self._state
        match action:
            case Append(events=events):
                return events
            case Begin(at=at):
                tool = ToolDescription(at.step.call.name, "", {}, {}) if isinstance(at.step.call, ToolCall) else None
                begun = await self._beginning.begin(state, at, tool, now)
                if isinstance(begun, Calls):
                    return (StepStarted(at.key, at.step.type, 1, begun.input),)
                return begun.events
            case Ask(at=at, arguments=value, proposer=proposer, reason=reason, escalation=escalation):
                return (ask(self._definition, state, at, value, proposer, now, reason, escalation=escalation),)
            case Spawn(at=at, attempt=attempt, occurrence=occurrence, input=value):
                return (StepStarted(at.key, at.step.type, attempt, value, occurrence),)
            case Park(waiting=waiting):
                return (waiting,)
            case Conclude():
                return (await self._beginning.conclude(state),)
            case _:
                return ()

    def _is_given(self, event: Event) -> bool:
        """Whether somebody else said it."""
        match event:
            case RunPaused(code=code):
                return code in ("REQUESTED", "SUSPENDED") or (self._related and code.startswith("LIMIT_"))
            case RunFailed(code=code):
                return code in _BY_WORKER or (self._related and code.startswith("LIMIT_"))
            case RunCancelled():
                return self._state.cancel is None  # a journal of version 1
            case RunWaiting():
                return event.state == "WAITING_TIMER"  # perhaps for a service that was away
            case ApprovalDecided(decision=decision):
                return decision not in ("expire", "cancel")
            case StepCompleted() | StepFailed() | StepRetrying() | StepUncertain():
                known = self._state.steps.get(event.step_id)
                under_way = known is not None and known.phase is Phase.STARTED and known.attempt == event.attempt
                return under_way and event.type not in _OF_ITSELF
            case _:
                return isinstance(event, _TOLD)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What would be decided instead of an event."""

    decided: Event | None


_SAME = _Verdict(None)


def _may_come_to(action: Action, event: Event) -> bool:
    """Whether it is worth evaluating an action for an event: expressions cost time."""
    if isinstance(action, Begin | Ask | Spawn):
        return step_of(event) == action.at.key or isinstance(event, RunPaused | LoopDetected)
    return isinstance(action, Append | Conclude | Park)


def _depends_on_others(action: Action, event: Event) -> bool:
    """A tool or an agent that could not be had, or not with these arguments: the registry of that day said so."""
    return (
        isinstance(action, Begin | Ask | Spawn)
        and isinstance(action.at.step.call, ToolCall | AgentCall)
        and isinstance(event, StepFailed)
        and event.step_id == action.at.key
    )


def _same(decided: Event, journalled: Event) -> bool:
    if isinstance(decided, ApprovalRequested) and isinstance(journalled, ApprovalRequested):
        # Journals of version 1 do not tell escalations.
        decided = replace(decided, escalation=decided.escalation and journalled.escalation)
    return decided.kind == journalled.kind and _shown(decided) == _shown(journalled)


def _shown(event: Event) -> dict[str, JsonValue]:
    data = {name: value for name, value in encode(event).items() if name not in _MADE_UP}
    return data | {"step_id": step_of(event)}
