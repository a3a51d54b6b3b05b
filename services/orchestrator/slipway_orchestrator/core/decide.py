"""`decide`: what a run does next is a pure function of its state, its definition and the time.

`decide` is the seam for other kinds of agent: whatever answers with these actions can drive a run.
"""

from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from slipway_orchestrator.core.definition import Approval, Definition, Gate, Step, ToolCall
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    Event,
    RunFailed,
    RunWaiting,
    StepCompleted,
    StepFailed,
    StepStarted,
)
from slipway_orchestrator.core.limits import exceeded, forbids_start, wall_deadline
from slipway_orchestrator.core.state import FINISHED, Phase, RunState, StepState


@dataclass(frozen=True, slots=True)
class Append:
    """Write these events and decide again."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """Evaluate the step's expressions: skip it, ask for approval, or journal its intent."""

    step: Step


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for approval of these arguments, in a new approval."""

    step: Step
    arguments: JsonValue
    proposer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Perform:
    """Perform the attempt whose intent is journalled."""

    step: Step
    attempt: int
    occurrence: int
    input: JsonValue
    decision: ApprovalDecided | None


@dataclass(frozen=True, slots=True)
class Park:
    """Let go of the run until the time, or a decision."""

    waiting: RunWaiting
    until: datetime
    """When it must be looked at again at the latest."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """All steps are finished: evaluate the result."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over."""


Action = Append | Begin | Ask | Perform | Park | Conclude | Ended


def decide(state: RunState, definition: Definition, now: datetime) -> Action:
    """The next action. ValueError for a journal without its first event."""
    if state.ended is not None:
        return Ended()
    if state.started is None or state.start_time is None:
        raise ValueError("a journal begins with run.started")
    if (failure := exceeded(state, definition.limits, now)) is not None:
        return Append((failure,))
    for step in definition.steps:
        known = state.steps.get(step.step_id)
        if known is None:
            failure = forbids_start(state, definition, step)
            return Begin(step) if failure is None else Append((failure,))
        if known.phase not in FINISHED:
            return _continue(state, definition, step, known, now)
    return Conclude()


def gate_of(step: Step) -> Gate | None:
    """The gate of a step that can have one."""
    return step.call.gate if isinstance(step.call, ToolCall | Approval) else None


def _continue(state: RunState, definition: Definition, step: Step, known: StepState, now: datetime) -> Action:
    deadline = wall_deadline(state, definition.limits)
    match known.phase:
        case Phase.GATED if known.approval is not None:
            if now >= known.approval.expire_time:
                return Append((_expired(known.approval),))
            until = known.approval.expire_time
            waiting = RunWaiting("WAITING_APPROVAL", until)
            return Park(waiting, min(until, deadline) if deadline else until)
        case Phase.DECIDED if known.approval is not None and known.decision is not None:
            return _decided(step, known, known.approval, known.decision)
        case Phase.STARTED:
            return Perform(step, known.attempt, known.occurrence, known.input, known.decision)
        case Phase.RETRYING if known.retry_at is not None:
            if now < known.retry_at:
                waiting = RunWaiting("WAITING_TIMER", known.retry_at)
                return Park(waiting, min(known.retry_at, deadline) if deadline else known.retry_at)
            approval_id = known.decision.approval_id if known.decision else None
            started = StepStarted(
                step.step_id, step.type, known.attempt + 1, known.input, known.occurrence, approval_id
            )
            return Append((started,))
        case Phase.UNCERTAIN if known.approval is not None and isinstance(step.call, ToolCall):
            reason = "nobody knows whether it happened: approve to do it again, respond with what came of it, or reject"
            return Ask(step, known.approval.arguments, known.approval.proposer, reason)
        case _:
            code, message = known.error or ("INTERNAL", "the step is in no state to go on from")
            return Append((RunFailed(code, message, step.step_id),))


def _expired(approval: ApprovalRequested) -> ApprovalDecided:
    return ApprovalDecided(
        step_id=approval.step_id,
        approval_id=approval.approval_id,
        decision="expire",
        arguments_digest=approval.arguments_digest,
        message="nobody decided in time",
    )


def _decided(step: Step, known: StepState, approval: ApprovalRequested, decision: ApprovalDecided) -> Action:
    """What a settled approval means for its step."""
    if decision.refused is not None:
        reason = f"the decision of {decision.decider} did not take effect: {decision.refused}"
        return Ask(step, approval.arguments, approval.proposer, reason)
    match decision.decision:
        case "edit":
            return Ask(
                step, decision.arguments, decision.person or decision.decider or "", f"edited by {decision.decider}"
            )
        case "respond" if isinstance(step.call, ToolCall):
            return Append((StepCompleted(step.step_id, step.type, decision.arguments),))
        case "approve" if isinstance(step.call, ToolCall):
            value: JsonValue = {"tool": step.call.name, "arguments": approval.arguments}
            # An executor takes one key for one thing: other arguments after an attempt are another effect.
            edited = known.attempt > 0 and known.input != value
            started = StepStarted(
                step.step_id,
                step.type,
                known.attempt + 1,
                value,
                known.occurrence + 1 if edited else known.occurrence,
                decision.approval_id,
            )
            return Append((started,))
        case "approve" | "respond":
            output: JsonValue = {
                "decision": decision.decision,
                "decider": decision.decider,
                "message": decision.message,
                "response": decision.arguments if decision.decision == "respond" else None,
            }
            return Append((StepCompleted(step.step_id, step.type, output),))
        case "expire" if (gate := gate_of(step)) is None or gate.on_expiry == "fail":
            return Append((RunFailed("APPROVAL_EXPIRED", "nobody decided in time", step.step_id),))
        case other:
            code = "APPROVAL_EXPIRED" if other == "expire" else "APPROVAL_REJECTED"
            message = decision.message or f"rejected by {decision.decider}"
            handled = step.on_error == "continue"
            return Append((StepFailed(step.step_id, step.type, known.attempt, code, message, handled=handled),))
