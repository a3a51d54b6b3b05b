"""What people asked of a run, as events: a decision is authorised again when it takes effect."""

from collections.abc import Mapping
from decimal import Decimal

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.policy import PolicyDecision, PolicyEngine

from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    ApprovalVoted,
    CancelRequested,
    Event,
    LimitsRaised,
    RaisedLimits,
    Record,
    RunPaused,
    RunResumed,
    SignalReceived,
)
from slipway_orchestrator.core.state import Phase, RunState
from slipway_orchestrator.runs import RunIdentity, approval_resource, is_approver, voter_of
from slipway_orchestrator.store.leases import InboxItem

KINDS = frozenset({"decision", "cancel", "pause", "resume", "signal", "limits", "suspend", "unsuspend"})
"""What this reads; other kinds are left for whoever does."""
_SUSPENDED = {
    "AGENT": "the agent is suspended",
    "TENANT": "all agents of the tenant are suspended",
    "ALL": "all agents are suspended",
}


class Inbox:
    """Turns inbox items into events."""

    def __init__(self, policy: PolicyEngine) -> None:
        self._policy = policy

    def event(self, run: RunIdentity, state: RunState, item: InboxItem) -> tuple[Event | None, PolicyDecision | None]:
        """The event of an item of one of KINDS, and the policy decision it rests on.

        None: what it is about is over, or so already.
        """
        if item.kind == "decision":
            asked = _asked(state, str(item.body["approval_id"]))
            return (None, None) if asked is None else self._decision(run, asked, item.body)
        return _steered(state, item), None

    def _decision(
        self, run: RunIdentity, asked: ApprovalRequested, body: dict[str, JsonValue]
    ) -> tuple[Event, PolicyDecision]:
        decider = voter_of(run.tenant, body)
        refused, policy = self._refusal(run, asked, decider)
        for other in _mappings(body.get("others")):
            refused = refused or self._refusal(run, asked, voter_of(run.tenant, other))[0]
        if refused is None and body["arguments_digest"] != asked.arguments_digest:
            refused = "ARGUMENTS_CHANGED"
        message = str(body["message"]) if body.get("message") else None
        votes, quorum = int(str(body.get("votes") or 1)), int(str(body.get("quorum") or 1))
        if refused is None and body["decision"] == "approve" and votes < quorum:
            voted = ApprovalVoted(
                step_id=asked.step_id,
                approval_id=asked.approval_id,
                arguments_digest=asked.arguments_digest,
                decider=decider.subject,
                person=decider.person,
                decider_roles=tuple(sorted(decider.roles)),
                decider_groups=tuple(sorted(decider.groups)),
                votes=votes,
                quorum=quorum,
                message=message,
                records=_records(body.get("record")),
            )
            return voted, policy
        event = ApprovalDecided(
            step_id=asked.step_id,
            approval_id=asked.approval_id,
            decision=str(body["decision"]),
            arguments_digest=asked.arguments_digest,
            decider=decider.subject,
            person=decider.person,
            decider_roles=tuple(sorted(decider.roles)),
            decider_groups=tuple(sorted(decider.groups)),
            arguments=body.get("arguments"),
            message=message,
            refused=refused,
            records=_records(body.get("record")),
        )
        return event, policy

    def _refusal(
        self, run: RunIdentity, asked: ApprovalRequested, decider: Caller
    ) -> tuple[str | None, PolicyDecision]:
        """Why somebody may not decide now what they decided, and the policies' word."""
        resource = approval_resource(
            asked.approval_id, run.tenant, run.agent, asked.proposer, asked.tool or "", asked.approvers
        )
        policy = self._policy.decide(decider, "DecideApproval", resource)
        if decider.person == asked.proposer:
            return "PROPOSER_IS_APPROVER", policy
        if not is_approver(decider, asked.approvers):
            return "NOT_AN_APPROVER", policy
        return None if policy.allowed else "POLICY_DENIED", policy


def _steered(state: RunState, item: InboxItem) -> Event | None:
    body, by = item.body, str(item.body["by"])
    reason, records = str(body.get("reason") or ""), _records(body.get("record"))
    match item.kind:
        case "cancel":
            return CancelRequested(by, reason, bool(body.get("force")), records)
        case "pause" | "suspend" if state.paused is not None:
            return None
        case "resume" if state.paused is None:
            return None
        case "unsuspend" if state.paused is None or state.paused.code != "SUSPENDED":
            return None
        case "pause":
            return RunPaused(reason or f"paused by {by}", "REQUESTED", by, records=records)
        case "suspend":
            return RunPaused(_SUSPENDED[str(body["scope"])], "SUSPENDED", by)
        case "resume":
            return RunResumed(by, reason or None, records)
        case "unsuspend":
            return RunResumed(by, "no longer suspended")
        case "signal":
            return SignalReceived(str(body["name"]), body.get("payload"), by, records)
        case "limits":
            return LimitsRaised(by, _limits(body.get("limits")), records)
        case _:
            raise ValueError(f"inbox items of kind {item.kind} are not read here")


def _limits(value: JsonValue) -> RaisedLimits:
    given = value if isinstance(value, dict) else {}

    def whole(name: str) -> int | None:
        return None if given.get(name) is None else int(str(given[name]))

    return RaisedLimits(
        steps=whole("steps"),
        tokens=whole("tokens"),
        cost_usd=None if given.get("cost_usd") is None else Decimal(str(given["cost_usd"])),
        wall_time=None if given.get("wall_time") is None else float(str(given["wall_time"])),
        tool_errors=whole("tool_errors"),
        repeats=whole("repeats"),
    )


def _asked(state: RunState, approval_id: str) -> ApprovalRequested | None:
    """The open approval of that id."""
    for step in state.steps.values():
        if step.phase is Phase.GATED and step.approval is not None and step.approval.approval_id == approval_id:
            return step.approval
    return None


def _mappings(value: JsonValue) -> list[Mapping[str, JsonValue]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _records(value: JsonValue) -> tuple[Record, ...]:
    if not isinstance(value, dict):
        return ()
    return (Record(str(value["event_id"]), str(value["commitment"])),)
