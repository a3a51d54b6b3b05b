"""Asking people: what an approval shows, who may decide, and until when."""

from datetime import datetime, timedelta

from pydantic import JsonValue
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import digest

from slipway_orchestrator.core.actions import Instance
from slipway_orchestrator.core.definition import Definition, Gate, ToolCall
from slipway_orchestrator.core.events import ApprovalRequested
from slipway_orchestrator.core.limits import limits_of, wall_deadline
from slipway_orchestrator.core.state import RunState
from slipway_orchestrator.core.workflow.leaf import gate_of


def ask(
    definition: Definition,
    state: RunState,
    at: Instance,
    arguments: JsonValue,
    proposer: str,
    now: datetime,
    reason: str | None = None,
    *,
    escalation: bool = False,
) -> ApprovalRequested:
    """An approval of exactly these arguments: by whom the step's gate names, or the definition's escalation."""
    gate = gate_of(at.step)
    if gate is None:
        to = definition.escalation
        gate = Gate(to.approvers, expires=to.expires, remind=to.remind)
    deadline = wall_deadline(state, limits_of(state, definition)) or now
    return ApprovalRequested(
        step_id=at.key,
        approval_id=new_id("apr"),
        arguments=arguments,
        arguments_digest=digest(arguments),
        approvers=gate.approvers,
        proposer=proposer,
        expire_time=deadline if gate.expires is None else now + timedelta(seconds=gate.expires),
        tool=at.step.call.name if isinstance(at.step.call, ToolCall) else None,
        reason=reason,
        quorum=gate.quorum,
        remind_every=gate.remind,
        escalation=escalation,
    )


def proposer_of(state: RunState) -> str:
    """Who answers for what the run does."""
    return (state.started.proposer or state.started.caller) if state.started else ""
