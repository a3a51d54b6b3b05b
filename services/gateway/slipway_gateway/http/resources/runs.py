"""Runs and their events."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, JsonValue
from slipway.runs.v1 import runs_pb2 as pb

from slipway_gateway.http.resources.fields import (
    Command,
    DurationText,
    Labels,
    Page,
    Resource,
    dollars,
    json_of,
    labels_of,
    state_name,
    time_of,
)

OpenState = Literal["QUEUED", "RUNNING", "WAITING_APPROVAL", "WAITING_TIMER", "WAITING_SIGNAL", "WAITING_RUN", "PAUSED"]
TERMINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
TERMINAL_KINDS = frozenset({"run.succeeded", "run.failed", "run.cancelled"})


class RunError(Resource):
    """Why a run failed."""

    code: str
    message: str
    step: str | None


class RunUsage(Resource):
    """What a run used."""

    steps: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class ForkPoint(Resource):
    """Run, and the last of its events, that a fork took over."""

    run_id: str
    seq: int


class Pause(Resource):
    """Why a run does not go on."""

    code: str = Field(description="`REQUESTED`, `SUSPENDED`, `LOOP_DETECTED` or `LIMIT_…`.")
    reason: str
    time: datetime | None


class Run(Resource):
    """One durable execution of an agent version."""

    run_id: str
    agent: str
    version: int
    digest: str
    state: str = Field(
        description="`QUEUED`, `RUNNING`, `WAITING_APPROVAL`, `WAITING_TIMER`, `WAITING_SIGNAL`, `WAITING_RUN`, "
        "`PAUSED`, `SUCCEEDED`, `FAILED` or `CANCELLED`."
    )
    input: JsonValue = None
    output: JsonValue = None
    error: RunError | None
    usage: RunUsage
    caller: str
    labels: dict[str, str]
    session_id: str | None
    create_time: datetime | None
    update_time: datetime | None
    end_time: datetime | None
    last_seq: int
    trace_id: str
    pending_approval_ids: list[str]
    parent_run_id: str | None = Field(description="Run whose step started this one.")
    parent_step: str | None
    root_run_id: str = Field(description="Run at the top of the tree, whose limits bind the whole of it.")
    depth: int
    child_run_ids: list[str] = Field(description="Oldest first, at most 100; empty in lists.")
    forked_from: ForkPoint | None
    schedule: str | None = Field(description="Schedule that started it.")
    priority: int
    not_before: datetime | None
    pause: Pause | None = Field(description="Why a `PAUSED` run does not go on; null in lists.")
    output_tainted: bool = Field(
        False, description="True when the output derives from what came from outside; false in lists."
    )


class RunPage(Page):
    """A page of runs, newest first, without input and output."""

    runs: list[Run]


class StartRun(Command):
    """A run to start."""

    input: JsonValue = Field(None, description="Checked against the agent's input schema.")
    version: int | None = Field(None, ge=1, le=2**31 - 1, description="Version; absent: the one in production.")
    session_id: str | None = Field(None, max_length=64)
    labels: Labels = Field({})
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    not_before: datetime | None = Field(None, description="Earliest start, with a time zone.")
    input_tainted: bool = Field(
        False, description="True when the input derives from what came from outside: so does what the run makes of it."
    )


class CancelRun(Command):
    """Why a run should stop."""

    reason: str = Field("", max_length=1000)
    force: bool = Field(False, description="Break off what the run is doing at once, instead of asking it to stop.")


class CancelRuns(Command):
    """Which runs should stop: at least one of agent, states and labels."""

    agent: str = Field("", max_length=200)
    states: list[OpenState] = Field([], max_length=7)
    labels: Labels = Field({})
    reason: str = Field("", max_length=1000)
    force: bool = False
    limit: int = Field(1000, ge=1, le=2000, description="Most runs to cancel.")


class CancelledRuns(Resource):
    """What a bulk cancel asked for."""

    count: int = Field(description="Runs that were asked to stop.")
    more: bool = Field(description="True when runs are left that match: ask again.")


class PauseRun(Command):
    """Why a run should pause, or go on."""

    reason: str = Field("", max_length=1000)


class SignalRun(Command):
    """A value for a step that waits for it, now or later."""

    name: str = Field(min_length=1, max_length=63)
    payload: JsonValue = Field(None, description="At most 64 KiB of JSON.")


class RunLimits(Command):
    """New limits, each above the one that holds; at least one."""

    steps: int | None = Field(None, ge=1, le=2**31 - 1)
    tokens: int | None = Field(None, ge=1, le=2**62)
    cost_usd: Decimal | None = Field(None, gt=0, le=1_000_000, decimal_places=9)
    wall_time: DurationText | None = Field(None, description="From the start of the run, waiting included.")
    tool_errors: int | None = Field(None, ge=1, le=2**31 - 1)
    repeats: int | None = Field(None, ge=1, le=2**31 - 1)


class ForkRun(Command):
    """Where a fork begins, and what is different in it."""

    seq: int = Field(ge=1, le=2**62, description="Last event to take over.")
    input: JsonValue = Field(None, description="Absent: the run's own.")
    version: int | None = Field(None, ge=1, le=2**31 - 1, description="Absent: the run's own.")
    labels: Labels = Field({})


class ReplayDifference(Resource):
    """Where a replay leaves the journal."""

    seq: int
    step_id: str | None
    journalled: JsonValue = Field(description="Kind and data of the journal's event.")
    decided: JsonValue = Field(description="What would be decided now; null: nothing.")
    message: str


class Replay(Resource):
    """Whether a finished run decides the same once more."""

    same: bool
    events: int
    difference: ReplayDifference | None


class RunEvent(Resource):
    """A row of a run's journal. Readers skip kinds that they do not know."""

    seq: int = Field(description="From 1, without a gap.")
    time: datetime | None
    kind: str
    step_id: str | None
    data: JsonValue


class RunEventPage(Page):
    """A page of the journal, in order."""

    events: list[RunEvent]


class ModelDelta(Resource):
    """A piece of a model's answer while it is written; a new attempt discards what came before."""

    step_id: str
    attempt: int
    offset: int
    text: str


def run(message: pb.Run) -> Run:
    """Converts a run."""
    usage = message.usage
    error = message.error
    return Run(
        run_id=message.run_id,
        agent=message.agent,
        version=message.version,
        digest=message.digest,
        state=state_name(pb.RunState.Name(message.state), "RUN_STATE_"),
        input=json_of(message.input_json),
        output=json_of(message.output_json),
        error=RunError(code=error.code, message=error.message, step=error.step or None)
        if message.HasField("error")
        else None,
        usage=RunUsage(
            steps=usage.steps,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=dollars(usage.cost),
        ),
        caller=message.caller,
        labels=labels_of(message.labels),
        session_id=message.session_id or None,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
        end_time=time_of(message, "end_time"),
        last_seq=message.last_seq,
        trace_id=message.trace_id,
        pending_approval_ids=list(message.pending_approval_ids),
        parent_run_id=message.parent_run_id or None,
        parent_step=message.parent_step or None,
        root_run_id=message.root_run_id or message.run_id,
        depth=message.depth,
        child_run_ids=list(message.child_run_ids),
        forked_from=ForkPoint(run_id=message.forked_from.run_id, seq=message.forked_from.seq)
        if message.HasField("forked_from")
        else None,
        schedule=message.schedule or None,
        priority=message.priority,
        not_before=time_of(message, "not_before"),
        output_tainted=message.output_tainted,
        pause=Pause(code=message.pause.code, reason=message.pause.reason, time=time_of(message.pause, "time"))
        if message.HasField("pause")
        else None,
    )


def replay(message: pb.ReplayRunResponse) -> Replay:
    """Converts the outcome of a replay."""
    difference = message.difference
    return Replay(
        same=message.same,
        events=message.events,
        difference=ReplayDifference(
            seq=difference.seq,
            step_id=difference.step_id or None,
            journalled=json_of(difference.journalled_json),
            decided=json_of(difference.decided_json),
            message=difference.message,
        )
        if message.HasField("difference")
        else None,
    )


def run_event(message: pb.RunEvent) -> RunEvent:
    """Converts an event."""
    return RunEvent(
        seq=message.seq,
        time=time_of(message, "time"),
        kind=message.kind,
        step_id=message.step_id or None,
        data=json_of(message.data_json),
    )


def model_delta(message: pb.ModelDelta) -> ModelDelta:
    """Converts a delta."""
    return ModelDelta(step_id=message.step_id, attempt=message.attempt, offset=message.offset, text=message.text)
