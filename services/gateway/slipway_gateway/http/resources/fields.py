"""Conversions that all resources need."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from slipway_chassis.money import from_money

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
LabelValue = Annotated[str, StringConstraints(max_length=256)]
Labels = Annotated[
    dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], LabelValue], Field(max_length=16)
]
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d|w)")
DurationText = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d|w)$"),
    Field(description="A time such as `30s`, `15m`, `2h` or `7d`."),
]
PageSize = Annotated[int, Field(ge=0, le=1000)]


class Resource(BaseModel):
    """Something that the API answers with."""

    model_config = ConfigDict(frozen=True)


class Command(BaseModel):
    """Something that the API is sent; a field that it does not know is an error, not a silent loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Page(Resource):
    """What all pages have."""

    next_page_token: str | None = Field(None, description="Send it as `page_token`; absent on the last page.")


def time_of(message: Message, field: str) -> datetime | None:
    """A timestamp field as a time in UTC, or None when it is unset."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=UTC)


def duration(text: str) -> Duration:
    """The time that a DurationText says."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text} is no time")
    stamp = Duration()
    stamp.FromTimedelta(timedelta(seconds=float(match[1]) * _UNITS[match[2]]))
    return stamp


def milliseconds(stamp: Duration) -> float:
    """A time in milliseconds."""
    return stamp.ToMicroseconds() / 1000


def duration_text(stamp: Duration) -> str:
    """A time in the largest unit that divides it."""
    seconds = stamp.ToTimedelta().total_seconds()
    unit = next(name for name in ("d", "h", "m", "s", "ms") if seconds % _UNITS[name] == 0 or name == "ms")
    return f"{seconds / _UNITS[unit]:g}{unit}"


def dollars(money: Money) -> float:
    """Money as the JSON number of dollars; nine decimals survive the conversion."""
    return float(from_money(money))


def dollars_text(money: Money) -> str:
    """Money as plain decimal dollars, for a header."""
    return format(from_money(money).normalize(), "f")


def json_of(text: str) -> JsonValue:
    """JSON text of a service as a value; None for none."""
    return json.loads(text) if text else None


def json_text(value: Any) -> str:
    """A value as JSON text for a service."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def state_name(name: str, prefix: str) -> str:
    """An enum's name without its type's prefix: `RUN_STATE_QUEUED` is `QUEUED`."""
    return name.removeprefix(prefix)


def labels_of(message: Mapping[str, str]) -> dict[str, str]:
    """A map field as a dictionary."""
    return dict(message)
