"""What a journal holds: one frozen value per kind of event, and its JSON form.

A row's data is this JSON form without what the row says itself (kind and step). Fields that are None are left out;
fields that a reader does not know are skipped, so that journals outlive the code that wrote them. `step_id` is the
step key: the step's id, followed by `[i]` for each map around it, outermost first.
"""

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import JsonValue, TypeAdapter

SCHEMA_VERSION = 2
"""Version of the forms below. A worker claims only runs whose journal it can read.

1: one step after the other. 2: steps within steps, child runs, waits, signals, pauses, votes, escalations, forks.
"""


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
class ForkPoint:
    """The last event of another run that a fork took over."""

    run_id: str
    seq: int


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
    parent_run_id: str | None = None
    parent_step: str | None = None
    """Key of the step that began this run."""
    root_run_id: str | None = None
    """The run at the top of the tree; None: this one."""
    depth: int = 0
    """Runs above this one."""
    forked_from: ForkPoint | None = None
    schedule: str | None = None
    """The schedule that started it."""
    worker_pool: str | None = None
    tainted: bool | None = None
    """Whether its input derives from what came from outside; None: no."""


@dataclass(frozen=True, slots=True)
class RunForked:
    """The events before this one are copied from another run; what they did is not done again."""

    kind: ClassVar[str] = "run.forked"
    from_run_id: str
    from_seq: int
    by: str
    version: int
    """Of the agent, from here on."""
    input_changed: bool = False


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
class RunPaused:
    """Nothing new begins until the run is resumed, or the limit that it reached is raised."""

    kind: ClassVar[str] = "run.paused"
    reason: str
    code: str
    """`REQUESTED`, `SUSPENDED`, `LIMIT_…` or `LOOP_DETECTED`."""
    by: str | None = None
    """None: the run itself, by its limits."""
    evidence: JsonValue = None
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class RunResumed:
    """A paused run goes on."""

    kind: ClassVar[str] = "run.resumed"
    by: str
    reason: str | None = None
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class RaisedLimits:
    """Limits that take the place of the definition's; None: as it was."""

    steps: int | None = None
    tokens: int | None = None
    cost_usd: Decimal | None = None
    wall_time: float | None = None
    """Seconds from the start."""
    tool_errors: int | None = None
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class LimitsRaised:
    """A person raised limits; a run that is paused by a limit goes on."""

    kind: ClassVar[str] = "limits.raised"
    by: str
    limits: RaisedLimits
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class SignalReceived:
    """Somebody signalled; the first step that waits for the name takes it."""

    kind: ClassVar[str] = "signal.received"
    name: str
    payload: JsonValue
    by: str
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopDetected:
    """The run goes round in circles; what it leads to follows."""

    kind: ClassVar[str] = "loop.detected"
    pattern: str
    """`REPEAT`, `CYCLE` or `NO_PROGRESS`."""
    evidence: JsonValue


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Nothing new begins; what is under way is told to stop, then `run.cancelled` follows."""

    kind: ClassVar[str] = "cancel.requested"
    by: str
    reason: str
    force: bool = False
    """Do not give what is under way time to end by itself."""
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSucceeded:
    """Terminal."""

    kind: ClassVar[str] = "run.succeeded"
    output: JsonValue
    tainted: bool | None = None
    """Whether it derives from what came from outside; None: no."""


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
    child_run_id: str | None = None
    """The run that an `agent` step began."""
    until: datetime | None = None
    """When a `wait` step ends at the latest."""
    tainted: bool | None = None
    """Whether its input derives from what came from outside (documents, tools that answer for others); None: no."""


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
    files: JsonValue = None
    """Files that a sandboxed program left and that were stored: `{name, file_id, content_type, size_bytes}` of each."""
    tainted: bool | None = None
    """Whether its output comes from outside, or derives from what does; None: no."""


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The step ended in an error; `handled` says that the run goes on with null.

    An `escalated` step has not ended: a person is asked what becomes of it.
    """

    kind: ClassVar[str] = "step.failed"
    step_id: str
    type: str
    attempt: int
    code: str
    message: str
    handled: bool = False
    handler: str | None = None
    """Id of the step of the same sequence at which a handled error goes on; None: the next one."""
    escalated: bool = False
    fatal: bool = False
    """Nothing that the definition declares may go on from it: the run fails."""
    performed: bool = False
    """The effect happened, but its answer is of no use: another attempt is a new occurrence of it."""
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
    quorum: int = 1
    """Approvals that it takes."""
    remind_every: float | None = None
    """Seconds between reminders."""
    escalation: bool = False
    """The step failed, or nobody knows whether it happened: approve tries it again, respond answers for it."""
    tainted: bool | None = None
    """Whether the arguments derive from what came from outside; None: no."""


@dataclass(frozen=True, slots=True)
class ApprovalReminded:
    """Still nobody has decided."""

    kind: ClassVar[str] = "approval.reminded"
    step_id: str
    approval_id: str
    count: int
    """Reminders of this approval so far, this one included."""


@dataclass(frozen=True, slots=True)
class ApprovalVoted:
    """One of several approvals: not enough yet to settle it."""

    kind: ClassVar[str] = "approval.voted"
    step_id: str
    approval_id: str
    arguments_digest: str
    decider: str
    person: str
    decider_roles: tuple[str, ...]
    decider_groups: tuple[str, ...]
    votes: int
    """Approvals so far, this one included."""
    quorum: int
    message: str | None = None
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class ApprovalDecided:
    """A decision, as it took effect: `refused` says why it did not."""

    kind: ClassVar[str] = "approval.decided"
    step_id: str
    approval_id: str
    decision: str
    """`approve`, `edit`, `reject`, `respond`, `expire`, or `cancel` when the step was given up."""
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
    | RunForked
    | RunWaiting
    | RunPaused
    | RunResumed
    | LimitsRaised
    | SignalReceived
    | LoopDetected
    | CancelRequested
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
    | ApprovalReminded
    | ApprovalVoted
    | ApprovalDecided
)

TERMINAL = (RunSucceeded, RunFailed, RunCancelled)

_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    cls.kind: TypeAdapter(cls)
    for cls in (
        RunStarted,
        RunRecovered,
        RunForked,
        RunWaiting,
        RunPaused,
        RunResumed,
        LimitsRaised,
        SignalReceived,
        LoopDetected,
        CancelRequested,
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
        ApprovalReminded,
        ApprovalVoted,
        ApprovalDecided,
    )
}
_SINCE_2 = (
    RunForked,
    RunPaused,
    RunResumed,
    LimitsRaised,
    SignalReceived,
    LoopDetected,
    CancelRequested,
    ApprovalReminded,
    ApprovalVoted,
)
_TYPES_SINCE_2 = frozenset({"parallel", "map", "branch", "agent", "wait"})


def version_of(event: Event) -> int:
    """The version of the journal that a reader must know to go on from this event: the run's must not be lower."""
    match event:
        case RunStarted(depth=depth, forked_from=forked_from):
            return 1 if depth == 0 and forked_from is None else 2
        case StepStarted(type=type_) | StepSkipped(type=type_) | StepCompleted(type=type_) if type_ in _TYPES_SINCE_2:
            return 2
        case StepFailed(type=type_, handler=handler, escalated=escalated):
            return 2 if type_ in _TYPES_SINCE_2 or escalated or handler is not None else 1
        case ApprovalRequested(quorum=quorum, escalation=escalation):
            return 2 if quorum > 1 or escalation else 1
        case _:
            return 2 if isinstance(event, _SINCE_2) else 1


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
