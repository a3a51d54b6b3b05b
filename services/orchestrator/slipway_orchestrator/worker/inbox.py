"""What people asked of a run, as events: a decision is authorised again when it takes effect."""

from datetime import UTC, datetime

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.policy import PolicyDecision, PolicyEngine

from slipway_orchestrator.core.events import ApprovalDecided, ApprovalRequested, Event, Record, RunCancelled
from slipway_orchestrator.core.state import Phase, RunState
from slipway_orchestrator.runs import RunIdentity, approval_resource, is_approver
from slipway_orchestrator.store.leases import InboxItem


class Inbox:
    """Turns inbox items into events."""

    def __init__(self, policy: PolicyEngine) -> None:
        self._policy = policy

    def event(self, run: RunIdentity, state: RunState, item: InboxItem) -> tuple[Event | None, PolicyDecision | None]:
        """The event of an item, and the policy decision it rests on. None: what it is about is over."""
        if item.kind == "cancel":
            return RunCancelled(str(item.body["by"]), str(item.body.get("reason") or "")), None
        asked = _asked(state, str(item.body["approval_id"]))
        return (None, None) if asked is None else self._decision(run, asked, item.body)

    def _decision(
        self, run: RunIdentity, asked: ApprovalRequested, body: dict[str, JsonValue]
    ) -> tuple[Event, PolicyDecision]:
        decider = _decider(run, body)
        resource = approval_resource(
            asked.approval_id, run.tenant, run.agent, asked.proposer, asked.tool or "", asked.approvers
        )
        policy = self._policy.decide(decider, "DecideApproval", resource)
        refused: str | None = None
        if decider.person == asked.proposer:
            refused = "PROPOSER_IS_APPROVER"
        elif not is_approver(decider, asked.approvers):
            refused = "NOT_AN_APPROVER"
        elif not policy.allowed:
            refused = "POLICY_DENIED"
        elif body["arguments_digest"] != asked.arguments_digest:
            refused = "ARGUMENTS_CHANGED"
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
            message=str(body["message"]) if body.get("message") else None,
            refused=refused,
            records=_records(body.get("record")),
        )
        return event, policy


def _asked(state: RunState, approval_id: str) -> ApprovalRequested | None:
    """The open approval of that id."""
    for step in state.steps.values():
        if step.phase is Phase.GATED and step.approval is not None and step.approval.approval_id == approval_id:
            return step.approval
    return None


def _decider(run: RunIdentity, body: dict[str, JsonValue]) -> Caller:
    """The decider as they were when they decided."""
    return Caller(
        subject=str(body["decider"]),
        tenant=run.tenant,
        kind="service" if body.get("kind") == "service" else "user",
        roles=frozenset(_texts(body.get("roles"))),
        groups=frozenset(_texts(body.get("groups"))),
        act=None,
        run_id=None,
        token_id=str(body.get("token_id") or ""),
        expires_at=datetime.max.replace(tzinfo=UTC),
        owner=str(body.get("owner") or ""),
    )


def _texts(value: JsonValue) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _records(value: JsonValue) -> tuple[Record, ...]:
    if not isinstance(value, dict):
        return ()
    return (Record(str(value["event_id"]), str(value["commitment"])),)
