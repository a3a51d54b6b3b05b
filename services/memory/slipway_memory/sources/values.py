"""Values between JSON and PostgreSQL.

| PostgreSQL | JSON |
|---|---|
| smallint, integer, bigint | number |
| real, double precision | number; `"NaN"`, `"Infinity"`, `"-Infinity"` as strings |
| numeric | string, with all digits |
| boolean | true, false |
| timestamptz | string, RFC 3339 in UTC |
| timestamp, date, time | string, ISO 8601 without a zone |
| interval | string, ISO 8601 duration |
| json, jsonb | the value itself |
| bytea | string, base64 |
| arrays | arrays |
| rows | arrays |
| everything else | string, as PostgreSQL writes it |
"""

from __future__ import annotations

import base64
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, cast

Json = Any


def to_json(value: object) -> Json:
    """A value of the driver as JSON."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else _not_finite(value)
        case Decimal():
            return format(value, "f") if value.is_finite() else str(value)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if value.tzinfo else value.isoformat()
        case date() | time():
            return value.isoformat()
        case timedelta():
            return _duration(value)
        case bytes():
            return base64.b64encode(value).decode()
        case JsonText():
            return json.loads(value.text)
        case list() | tuple():
            return [to_json(part) for part in cast("Sequence[object]", value)]
        case Mapping():
            return [to_json(part) for part in cast("Mapping[str, object]", value).values()]
        case _:
            return str(value)


class JsonText:
    """A value of type json or jsonb, as text."""

    def __init__(self, text: str) -> None:
        self.text = text


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _duration(value: timedelta) -> str:
    seconds = Decimal(value.days) * 86400 + Decimal(value.seconds) + Decimal(value.microseconds) / 1_000_000
    return f"{'-' if seconds < 0 else ''}PT{abs(seconds).normalize():f}S"


def _integer(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number is needed")
    return value


def _number(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is needed")
    return float(value)


def _decimal(value: Json) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number is needed, or a string of digits")
    try:
        return Decimal(str(value))
    except InvalidOperation:
        raise ValueError("a number is needed, or a string of digits") from None


def _boolean(value: Json) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false is needed")
    return value


def _string(value: Json) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("a string without NUL is needed")
    return value


def _moment(value: Json) -> datetime:
    moment = datetime.fromisoformat(_string(value))
    if moment.tzinfo is None:
        raise ValueError("a time with its zone is needed, as 2026-01-31T12:00:00Z")
    return moment


def _local(value: Json) -> datetime:
    moment = datetime.fromisoformat(_string(value))
    if moment.tzinfo is not None:
        raise ValueError("a time without a zone is needed, as 2026-01-31T12:00:00")
    return moment


def _json(value: Json) -> JsonText:
    return JsonText(json.dumps(value))


_READERS: Mapping[str, Callable[[Json], object]] = {
    **dict.fromkeys(("int2", "int4", "int8"), _integer),
    **dict.fromkeys(("float4", "float8"), _number),
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), _string),
    **dict.fromkeys(("json", "jsonb"), _json),
    "numeric": _decimal,
    "bool": _boolean,
    "timestamptz": _moment,
    "timestamp": _local,
    "date": lambda value: date.fromisoformat(_string(value)),
    "time": lambda value: time.fromisoformat(_string(value)),
    "uuid": lambda value: uuid.UUID(_string(value)),
}


def from_json(value: Json, type_name: str) -> object:
    """A JSON value for a parameter of PostgreSQL's type; an array's name ends with `[]`. Raises ValueError in words."""
    if value is None:
        return None
    if type_name.endswith("[]"):
        if not isinstance(value, list):
            raise ValueError("a list is needed")
        return [from_json(part, type_name[:-2]) for part in cast("list[Json]", value)]
    reader = _READERS.get(type_name)
    if reader is None:
        raise ValueError(f"values of type {type_name} can't be given: cast the parameter to a plain type")
    return reader(value)
