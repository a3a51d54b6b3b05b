"""Runs and their events."""

from datetime import datetime
from typing import Annotated

from pydantic import Field, JsonValue
from slipway.runs.v1 import runs_pb2 as pb

from slipway_gateway.http.resources.fields import (
    Command,
    Labels,
    Page,
    Resource,
    dollars,
    json_of,
    labels_of,
    state_name,
    time_of,
)

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


class CancelRun(Command):
    """Why a run should stop."""

    reason: str = Field("", max_length=1000)


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
