"""Runs and approvals as the rest of the service sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.policy import Resource

TERMINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
MAX_INPUT = 256 * 1024
"""Bytes of a run's input as JSON."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What never changes in a run, and what its journal needs to go on."""

    run_id: str
    tenant: str
    agent: str
    version: int
    digest: str
    subject: str
    caller: Caller
    """Who started it, with the agent version as `act`: the actor of its journal."""
    traceparent: str
    trace_id: str
    session_id: str

    @property
    def agent_version(self) -> str:
        """`refund-desk@3`."""
        return f"{self.agent}@{self.version}"

    @property
    def resource(self) -> Resource:
        """The run as policies see it."""
        return Resource("Run", self.run_id, self.tenant, {"agent": self.agent, "owner": self.subject})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run comes from: its tree, what it was forked from, the schedule that started it."""

    root_run_id: str
    parent_run_id: str = ""
    """Empty: none."""
    parent_step: str = ""
    depth: int = 0
    forked_from: tuple[str, int] | None = None
    """Run and last event that was copied."""
    schedule: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it stands."""

    identity: RunIdentity
    state: str
    input: JsonValue
    output: JsonValue
    error: Mapping[str, str] | None
    """`code`, `message`, `step`."""
    steps: int
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    labels: Mapping[str, str]
    last_seq: int
    create_time: datetime
    update_time: datetime
    end_time: datetime | None
    pending_approval_ids: tuple[str, ...]
    place: Place
    priority: int
    not_before: datetime | None

    @property
    def ended(self) -> bool:
        """No event follows."""
        return self.state in TERMINAL_STATES


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One event as everyone sees it."""

    seq: int
    time: datetime
    kind: str
    step_id: str | None
    data: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a run does not go on."""

    code: str
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True)
class RunDetails:
    """What is told of one run only. `output_tainted`: its output derives from what came from outside."""

    children: Sequence[str] = ()
    pause: Pause | None = None
    output_tainted: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """One of several approvals."""

    voter: Caller
    message: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Approval:
    """A gate in a run."""

    approval_id: str
    tenant: str
    run_id: str
    step_id: str
    agent: str
    version: int
    state: str
    tool: str
    subject: str
    """Whose run it is."""
    arguments: JsonValue
    arguments_digest: str
    arguments_schema: str
    """JSON Schema (text) that edited arguments must fit; empty for a gate by itself."""
    approvers: tuple[str, ...]
    proposer: str
    create_time: datetime
    expire_time: datetime
    decider: str
    decide_time: datetime | None
    message: str
    decided_arguments: JsonValue
    quorum: int
    """Approvals that it takes."""
    votes: tuple[Vote, ...]
    reminders: int
    next_reminder_time: datetime | None
    reason: str
    escalation: bool

    @property
    def resource(self) -> Resource:
        """The approval as policies see it."""
        return approval_resource(self.approval_id, self.tenant, self.agent, self.proposer, self.tool, self.approvers)


def approval_resource(
    approval_id: str, tenant: str, agent: str, proposer: str, tool: str, approvers: tuple[str, ...]
) -> Resource:
    """An approval as policies see it."""
    attributes = {"agent": agent, "proposer": proposer, "tool": tool, "approvers": approvers}
    return Resource("Approval", approval_id, tenant, attributes)


def is_approver(caller: Caller, approvers: tuple[str, ...]) -> bool:
    """Whether the definition names the caller, by subject or by role."""
    handles = {f"user:{caller.subject}", *(f"role:{role}" for role in caller.roles)}
    return not handles.isdisjoint(approvers)


def voter_facts(caller: Caller) -> dict[str, JsonValue]:
    """A decider as they were when they decided, to be looked at again when it takes effect."""
    return {
        "decider": caller.subject,
        "roles": list[JsonValue](sorted(caller.roles)),
        "groups": list[JsonValue](sorted(caller.groups)),
        "kind": caller.kind,
        "owner": caller.owner,
        "token_id": caller.token_id,
    }


def voter_of(tenant: str, facts: Mapping[str, JsonValue]) -> Caller:
    """The decider of `voter_facts`."""
    return Caller(
        subject=str(facts["decider"]),
        tenant=tenant,
        kind="service" if facts.get("kind") == "service" else "user",
        roles=frozenset(_texts(facts.get("roles"))),
        groups=frozenset(_texts(facts.get("groups"))),
        act=None,
        run_id=None,
        token_id=str(facts.get("token_id") or ""),
        expires_at=datetime.max.replace(tzinfo=UTC),
        owner=str(facts.get("owner") or ""),
    )


def _texts(value: JsonValue) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
