"""Schedules of agents."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints
from slipway.runs.v1 import schedules_pb2 as pb

from slipway_gateway.http.resources.fields import (
    Command,
    DurationText,
    Labels,
    Page,
    Resource,
    duration,
    duration_text,
    json_of,
    json_text,
    labels_of,
    state_name,
    time_of,
)

Overlap = Literal["skip", "queue", "cancel_older"]


class PutSchedule(Command):
    """When runs of an agent start, and with what."""

    cron: Annotated[str, StringConstraints(min_length=9, max_length=200)] = Field(
        description="Five fields: minute, hour, day of month, month, day of week."
    )
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        "UTC", description="Of the tz database, e.g. `Europe/Berlin`. Hours that a change of clocks skips are made up."
    )
    input: JsonValue = Field(None, description="Checked against the agent's input schema.")
    labels: Labels = Field({})
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    overlap: Overlap = Field("skip", description="What happens at a due time while a run of the schedule goes on.")
    catch_up: DurationText = Field(
        "5m", description="How late a run still starts, e.g. after an outage; only the newest missed time is made up."
    )
    paused: bool = False


class Schedule(Resource):
    """Starts runs of an agent by the clock, in the name of whoever put it."""

    agent: str
    schedule: str
    cron: str
    time_zone: str
    input: JsonValue
    labels: dict[str, str]
    priority: int
    overlap: str = Field(description="`skip`, `queue` or `cancel_older`.")
    catch_up: str
    paused: bool
    stop_reason: str | None = Field(description="Why it stopped by itself; putting it again clears this.")
    owner: str = Field(description="In whose name its runs act.")
    next_time: datetime | None = Field(description="Null while it is paused or stopped.")
    last_time: datetime | None
    last_run_id: str | None
    last_outcome: str | None = Field(description="`STARTED`, `SKIPPED`, `QUEUED`, `MISSED` or `FAILED`.")
    last_message: str | None
    create_time: datetime | None
    update_time: datetime | None


class SchedulePage(Page):
    """A page of schedules, by name."""

    schedules: list[Schedule]


def put_request(agent: str, name: str, body: PutSchedule, grant: str, request_id: str) -> pb.PutScheduleRequest:
    """Converts a schedule that a client puts."""
    return pb.PutScheduleRequest(
        schedule=pb.Schedule(
            agent=agent,
            schedule=name,
            cron=body.cron,
            time_zone=body.time_zone,
            input_json=json_text(body.input) if "input" in body.model_fields_set else "",
            labels=body.labels,
            priority=body.priority,
            overlap=pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{body.overlap.upper()}"),
            catch_up=duration(body.catch_up),
            paused=body.paused,
        ),
        schedule_grant=grant,
        request_id=request_id,
    )


def schedule(message: pb.Schedule) -> Schedule:
    """Converts a schedule."""
    return Schedule(
        agent=message.agent,
        schedule=message.schedule,
        cron=message.cron,
        time_zone=message.time_zone,
        input=json_of(message.input_json),
        labels=labels_of(message.labels),
        priority=message.priority,
        overlap=state_name(pb.OverlapPolicy.Name(message.overlap), "OVERLAP_POLICY_").lower(),
        catch_up=duration_text(message.catch_up),
        paused=message.paused,
        stop_reason=message.stop_reason or None,
        owner=message.owner,
        next_time=time_of(message, "next_time"),
        last_time=time_of(message, "last_time"),
        last_run_id=message.last_run_id or None,
        last_outcome=message.last_outcome or None,
        last_message=message.last_message or None,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )
