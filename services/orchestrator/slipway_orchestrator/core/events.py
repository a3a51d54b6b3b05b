"""What a journal holds: one frozen value per kind of event, and its JSON form.

A row's data is this JSON form without what the row says itself (kind and step). Fields that are None are left out;
fields that a reader does not know are skipped, so that journals outlive the code that wrote them.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import JsonValue, TypeAdapter

SCHEMA_VERSION = 1
"""Version of the forms below. A worker claims only runs whose journal it can read."""


@dataclass(frozen=True, slots=True)
class Record:
    """Reference to the audit record that an executor committed."""

    event_id: str
    commitment: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an attempt used."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Always seq 1."""

    kind: ClassVar[str] = "run.started"
    agent: str
    version: int
    digest: str
    caller: str
    input: JsonValue
    labels: dict[str, str]
    priority: int = 0
    session_id: str | None = None
    not_before: datetime | None = None
    proposer: str | None = None
    """Who answers for the caller: its gates are somebody else's to decide. None: the caller."""


@dataclass(frozen=True, slots=True)
class RunRecovered:
    """A worker took over a run whose lease had run out."""

    kind: ClassVar[str] = "run.recovered"
    worker: str
    epoch: int


@dataclass(frozen=True, slots=True)
class RunWaiting:
    """The run parks: no worker holds it until the time, or a decision."""

    kind: ClassVar[str] = "run.waiting"
    state: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunSucceeded:
    """Terminal."""

    kind: ClassVar[str] = "run.succeeded"
    output: JsonValue


@dataclass(frozen=True, slots=True)
class RunFailed:
    """Terminal."""

    kind: ClassVar[str] = "run.failed"
    code: str
    message: str
    step: str | None = None


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """Terminal."""

    kind: ClassVar[str] = "run.cancelled"
    cancelled_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The intent: an attempt at the step's effect begins."""

    kind: ClassVar[str] = "step.started"
    step_id: str
    type: str
    attempt: int
    input: JsonValue
    occurrence: int = 1
    approval_id: str | None = None


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """Its `when` was false; its value is null."""

    kind: ClassVar[str] = "step.skipped"
    step_id: str
    type: str


@dataclass(frozen=True, slots=True)
class StepCompleted:
    """The result."""

    kind: ClassVar[str] = "step.completed"
    step_id: str
    type: str
    output: JsonValue
    attempt: int = 0
    """0 when no effect was performed."""
    duration_ms: int | None = None
    model: str | None = None
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    records: tuple[Record, ...] = ()
    stdout: str | None = None
    stderr: str | None = None
    exit_status: int | None = None
    sandbox: str | None = None


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step ended in an error; `handled` says that the run goes on with null."""

    kind: ClassVar[str] = "step.failed"
    step_id: str
    type: str
    attempt: int
    code: str
    message: str
    handled: bool = False
    tool_error: bool = False
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    records: tuple[Record, ...] = ()
    stdout: str | None = None
    stderr: str | None = None


@dataclass(frozen=True, slots=True)
class StepRetrying:
    """An attempt failed and another follows at `retry_at`; the jitter is in it."""

    kind: ClassVar[str] = "step.retrying"
    step_id: str
    type: str
    attempt: int
    code: str
    message: str
    retry_at: datetime
    tool_error: bool = False
    performed: bool = False
    """The effect happened, but its answer is of no use: the next attempt is a new occurrence of it."""
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class StepUncertain:
    """The effect may or may not have happened, and its target keeps no key: it is not repeated."""

    kind: ClassVar[str] = "step.uncertain"
    step_id: str
    type: str
    attempt: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A gate: the run waits for a person."""

    kind: ClassVar[str] = "approval.requested"
    step_id: str
    approval_id: str
    arguments: JsonValue
    arguments_digest: str
    approvers: tuple[str, ...]
    proposer: str
    expire_time: datetime
    tool: str | None = None
    reason: str | None = None
    """Why it is asked again, or asked without a gate in the definition."""


@dataclass(frozen=True, slots=True)
class ApprovalDecided:
    """A decision, as it took effect: `refused` says why it did not."""

    kind: ClassVar[str] = "approval.decided"
    step_id: str
    approval_id: str
    decision: str
    """`approve`, `edit`, `reject`, `respond` or `expire`."""
    arguments_digest: str
    decider: str | None = None
    person: str | None = None
    """Who answers for the decider, and proposes what an edit asks for. None: the decider."""
    decider_roles: tuple[str, ...] = ()
    decider_groups: tuple[str, ...] = ()
    arguments: JsonValue = None
    """New arguments of an edit, or the answer of a response."""
    message: str | None = None
    refused: str | None = None
    records: tuple[Record, ...] = ()


Event = (
    RunStarted
    | RunRecovered
    | RunWaiting
    | RunSucceeded
    | RunFailed
    | RunCancelled
    | StepStarted
    | StepSkipped
    | StepCompleted
    | StepFailed
    | StepRetrying
    | StepUncertain
    | ApprovalRequested
    | ApprovalDecided
)

TERMINAL = (RunSucceeded, RunFailed, RunCancelled)

_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    cls.kind: TypeAdapter(cls)
    for cls in (
        RunStarted,
        RunRecovered,
        RunWaiting,
        RunSucceeded,
        RunFailed,
        RunCancelled,
        StepStarted,
        StepSkipped,
        StepCompleted,
        StepFailed,
        StepRetrying,
        StepUncertain,
        ApprovalRequested,
        ApprovalDecided,
    )
}


def step_of(event: Event) -> str | None:
    """The step that an event is about, if any."""
    return getattr(event, "step_id", None)


def encode(event: Event) -> dict[str, JsonValue]:
    """An event's data as JSON values, without kind and step.

    `output` and `input` stand in it even when they are null.
    """
    data: dict[str, JsonValue] = _ADAPTERS[event.kind].dump_python(event, mode="json")
    data.pop("step_id", None)
    optional = {field.name for field in fields(event) if field.default is None}
    return {name: value for name, value in data.items() if value is not None or name not in optional}


def decode(kind: str, step_id: str | None, data: dict[str, JsonValue]) -> Event | None:
    """The event of a row; None for a kind that this code does not know. ValueError when the data does not fit."""
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        return None
    return adapter.validate_python(data if step_id is None else {**data, "step_id": step_id})
