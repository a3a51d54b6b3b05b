"""Schedules of agents as the rest of the service sees them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pydantic import JsonValue

Overlap = Literal["SKIP", "QUEUE", "CANCEL_OLDER"]
Outcome = Literal["STARTED", "SKIPPED", "QUEUED", "MISSED", "FAILED"]


@dataclass(frozen=True, slots=True)
class ScheduleKey:
    """What names a schedule."""

    tenant: str
    agent: str
    name: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody puts."""

    cron: str
    time_zone: str
    input: JsonValue
    labels: Mapping[str, str]
    priority: int
    overlap: Overlap
    catch_up: timedelta
    """How late a run is still started."""
    paused: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as it stands."""

    key: ScheduleKey
    wanted: Wanted
    owner: str
    """In whose name its runs act."""
    grant: str
    """Signed by the gateway; empty when the owner was erased."""
    stop_reason: str
    next_time: datetime | None
    queued_time: datetime | None
    """Due time whose run waits for those before it to end."""
    last_time: datetime | None
    last_run_id: str
    last_outcome: str
    last_message: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Firing:
    """What came of a due time."""

    due: datetime
    outcome: Outcome
    message: str = ""
    run_id: str = ""
