"""What a step with nothing within it does next."""

from datetime import datetime, timedelta

from pydantic import JsonValue

from slipway_orchestrator.core.actions import Action, Append, Ask, Begin, Instance, Perform, Spawn
from slipway_orchestrator.core.definition import (
    AgentCall,
    Approval,
    Gate,
    History,
    ModelCall,
    Remember,
    Retrieve,
    Step,
    Summary,
    ToolCall,
    Turn,
    Wait,
)
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalReminded,
    ApprovalRequested,
    RunFailed,
    RunPaused,
    StepCompleted,
    StepStarted,
)
from slipway_orchestrator.core.outcomes import failed
from slipway_orchestrator.core.state import Phase, RunState, StepState

IN_DOUBT = "nobody knows whether it happened: approve to do it again, respond with what came of it, or reject"
EFFECTS = (Retrieve, ModelCall, ToolCall, Turn, Summary, History, Remember)
"""Steps that executors perform."""


def gate_of(step: Step) -> Gate | None:
    """The gate of a step that can have one."""
    return step.call.gate if isinstance(step.call, ToolCall | Approval) else None


def next_of(state: RunState, at: Instance, known: StepState, now: datetime) -> Action | None:
    """The next action; None while the step waits (`waits_for` tells what for)."""
    match known.phase:
        case Phase.GATED if known.approval is not None:
            return _gated(at, known, known.approval, now)
        case Phase.DECIDED if known.approval is not None and known.decision is not None:
            return _decided(at, known, known.approval, known.decision)
        case Phase.STARTED if isinstance(at.step.call, EFFECTS):
            return Perform(at, known.attempt, known.occurrence, known.input, known.decision)
        case Phase.STARTED if isinstance(at.step.call, Wait):
            return _waited(state, at, known, now)
        case Phase.STARTED if isinstance(at.step.call, AgentCall):
            return None
        case Phase.RETRYING if known.error is not None and known.error[0] == "LIMIT_COST":
            code, message = known.error
            return Append((RunPaused(message, code, evidence={"step": at.key}),))
        case Phase.RETRYING if known.retry_at is not None:
            return None if now < known.retry_at else _again(at, known, known.occurrence, None)
        case Phase.UNCERTAIN:
            return _escalate(state, at, known, IN_DOUBT)
        case Phase.ESCALATED:
            code, message = known.error or ("INTERNAL", "the step failed")
            return _escalate(state, at, known, f"{code}: {message}")
        case _:
            code, message = known.error or ("INTERNAL", "the step is in no state to go on from")
            return Append((RunFailed(code, message, at.key),))


def waits_for(at: Instance, known: StepState) -> tuple[str, datetime | None]:
    """The state that a run is in that waits for this step only, and until when; None: nobody knows."""
    match known.phase:
        case Phase.GATED if known.approval is not None:
            reminder = _reminder(known, known.approval)
            expiry = known.approval.expire_time
            return "WAITING_APPROVAL", expiry if reminder is None else min(expiry, reminder)
        case Phase.RETRYING:
            return "WAITING_TIMER", known.retry_at
        case _ if isinstance(at.step.call, AgentCall):
            return "WAITING_RUN", None
        case _ if isinstance(at.step.call, Wait) and at.step.call.signal is not None:
            return "WAITING_SIGNAL", known.until
        case _:
            return "WAITING_TIMER", known.until


def _gated(at: Instance, known: StepState, asked: ApprovalRequested, now: datetime) -> Action | None:
    if now >= asked.expire_time:
        return Append(
            (
                ApprovalDecided(
                    step_id=at.key,
                    approval_id=asked.approval_id,
                    decision="expire",
                    arguments_digest=asked.arguments_digest,
                    message="nobody decided in time",
                ),
            )
        )
    reminder = _reminder(known, asked)
    if reminder is not None and now >= reminder:
        return Append((ApprovalReminded(at.key, asked.approval_id, known.reminders + 1),))
    return None


def _reminder(known: StepState, asked: ApprovalRequested) -> datetime | None:
    if asked.remind_every is None or known.asked_at is None:
        return None
    return known.asked_at + timedelta(seconds=asked.remind_every)


def _waited(state: RunState, at: Instance, known: StepState, now: datetime) -> Action | None:
    call, value = at.step.call, known.input
    name = value.get("signal") if isinstance(value, dict) else None
    if isinstance(name, str):
        if queue := state.signals.get(name):
            output: JsonValue = {"signal": name, "payload": queue[0].payload, "by": queue[0].by}
            return Append((StepCompleted(at.key, at.step.type, output, attempt=1),))
        if isinstance(call, Wait) and known.until is not None and now >= known.until:
            return Append((failed(at, 1, "SIGNAL_EXPIRED", f"nobody sent the signal {name} in time"),))
        return None
    if known.until is not None and now >= known.until:
        return Append((StepCompleted(at.key, at.step.type, None, attempt=1),))
    return None


def _again(at: Instance, known: StepState, occurrence: int, approval_id: str | None) -> Action:
    """The next attempt, with the same input."""
    attempt = known.attempt + 1
    if isinstance(at.step.call, AgentCall):
        return Spawn(at, attempt, occurrence, known.input, approval_id)
    approved = approval_id or (known.decision.approval_id if known.decision else None)
    tainted = known.input_tainted or None
    return Append((StepStarted(at.key, at.step.type, attempt, known.input, occurrence, approved, tainted=tainted),))


def _escalate(state: RunState, at: Instance, known: StepState, reason: str) -> Ask:
    arguments, proposer = known.input, _proposer(state)
    if isinstance(at.step.call, ToolCall) and isinstance(known.input, dict):
        arguments = known.input["arguments"]
        if known.approval is not None:  # it was gated: whoever edited it stays its proposer
            proposer = known.approval.proposer
    return Ask(at, arguments, proposer, reason, escalation=True)


def _proposer(state: RunState) -> str:
    started = state.started
    return "" if started is None else started.proposer or started.caller


def _decided(at: Instance, known: StepState, asked: ApprovalRequested, decision: ApprovalDecided) -> Action:
    """What a settled approval means for its step."""
    step = at.step
    if decision.refused is not None:
        reason = f"the decision of {decision.decider} did not take effect: {decision.refused}"
        return Ask(at, asked.arguments, asked.proposer, reason, asked.escalation)
    match decision.decision:
        case "edit":
            proposer = decision.person or decision.decider or ""
            return Ask(at, decision.arguments, proposer, f"edited by {decision.decider}", asked.escalation)
        case "respond" if not isinstance(step.call, Approval):
            return Append((StepCompleted(at.key, step.type, decision.arguments),))
        case "approve" if asked.escalation and known.attempt == 0 and asked.arguments is None:
            return Begin(at)  # it failed before its effect
        case "approve" if isinstance(step.call, ToolCall):
            value: JsonValue = {"tool": step.call.name, "arguments": asked.arguments}
            # An executor takes one key for one thing: other arguments after an attempt are another effect.
            edited = known.attempt > 0 and known.input != value
            occurrence = known.occurrence + 1 if edited else known.occurrence
            attempt = known.attempt + 1
            tainted = known.input_tainted or None
            started = StepStarted(at.key, step.type, attempt, value, occurrence, decision.approval_id, tainted=tainted)
            return Append((started,))
        case "approve" if not isinstance(step.call, Approval):
            return _again(at, known, known.occurrence, decision.approval_id)
        case "approve" | "respond":
            output: JsonValue = {
                "decision": decision.decision,
                "decider": decision.decider,
                "message": decision.message,
                "response": decision.arguments if decision.decision == "respond" else None,
            }
            return Append((StepCompleted(at.key, step.type, output),))
        case other:
            return _refused(at, known, asked, decision, expired=other == "expire")


def _refused(
    at: Instance, known: StepState, asked: ApprovalRequested, decision: ApprovalDecided, *, expired: bool
) -> Action:
    why = "nobody decided in time" if expired else decision.message or f"rejected by {decision.decider}"
    if asked.escalation and known.error is not None:
        code, message = known.error
        return Append((failed(at, known.attempt, code, f"{message} ({why})"),))
    if not expired:
        return Append((failed(at, known.attempt, "APPROVAL_REJECTED", why),))
    gate = gate_of(at.step)
    if gate is None or gate.on_expiry == "fail":
        return Append((failed(at, known.attempt, "APPROVAL_EXPIRED", why, fatal=True),))
    return Append((failed(at, known.attempt, "APPROVAL_EXPIRED", why),))
