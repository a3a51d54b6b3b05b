"""Audit events as they are committed to: their members, and the commitment itself."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from slipway_evidence.canonical import CanonicalError, Json, parse_canonical

SCHEMA = 1
MAX_EVENT_BYTES = 4 * 1024 * 1024
SALT_SIZE = 32
GENESIS = "0" * 64  # `prev` of the first journal event

_ID = re.compile(r"aev_[0-7][0-9a-hjkmnp-tv-z]{25}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z", re.ASCII)
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,1024}")
_HEX32 = re.compile(r"[0-9a-f]{64}")
_LINE_RULE = "1 to 1024 characters of text without control characters"
_TEXT = ("type", "tenant", "service")
_OPTIONAL_TEXT = ("subject", "resource", "run_id", "trace_id")
_MEMBERS = frozenset(
    ("schema", "id", "time", "actor", "seq", "prev", "policy", "data", *_TEXT, *_OPTIONAL_TEXT),
)


class EventError(ValueError):
    """An event breaks the schema; `member` names what is wrong, empty for the event as a whole."""

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.member = member


@dataclass(frozen=True, slots=True)
class Event:
    """A well-formed audit event. `seq` and `prev` are set on the events of a run's journal only."""

    id: str
    type: str
    tenant: str
    time: str
    service: str
    actor: Mapping[str, Json]
    data: Mapping[str, Json]
    subject: str
    resource: str
    run_id: str
    seq: int | None
    prev: str


def commitment(salt: bytes, canonical: bytes) -> bytes:
    """What the log commits to: SHA-256(salt ‖ canonical event). It is the leaf's data."""
    return hashlib.sha256(salt + canonical).digest()


def is_hex32(value: object) -> bool:
    """True for 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _HEX32.fullmatch(value) is not None


def is_event_id(value: object) -> bool:
    """True for an audit event's id, `aev_` and 26 digits."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_line(value: object) -> bool:
    return isinstance(value, str) and _LINE.fullmatch(value) is not None


def parse_event(canonical: bytes) -> Event:
    """Read an event from its canonical bytes. Raises EventError naming the member that breaks the schema."""
    if len(canonical) > MAX_EVENT_BYTES:
        raise EventError(f"an event is at most {MAX_EVENT_BYTES} bytes long")
    try:
        value = parse_canonical(canonical)
    except CanonicalError as error:
        raise EventError(str(error)) from None
    if not isinstance(value, dict):
        raise EventError("an event is a JSON object")
    _check_required(value)
    _check_optional(value)
    _check_journal(value)
    return Event(
        id=cast("str", value["id"]),
        type=cast("str", value["type"]),
        tenant=cast("str", value["tenant"]),
        time=cast("str", value["time"]),
        service=cast("str", value["service"]),
        actor=cast("dict[str, Json]", value["actor"]),
        data=cast("dict[str, Json]", value["data"]),
        subject=cast("str", value.get("subject", "")),
        resource=cast("str", value.get("resource", "")),
        run_id=cast("str", value.get("run_id", "")),
        seq=cast("int | None", value.get("seq")),
        prev=cast("str", value.get("prev", "")),
    )


def _check_required(value: Mapping[str, Json]) -> None:
    unknown = sorted(value.keys() - _MEMBERS)
    if unknown:
        raise EventError(f"schema {SCHEMA} has no such member", unknown[0][:64])
    if type(value.get("schema")) is not int or value["schema"] != SCHEMA:
        raise EventError(f"not {SCHEMA}, the schema that this reader knows", "schema")
    if not is_event_id(value.get("id")):
        raise EventError("not an audit event's id", "id")
    for member in _TEXT:
        if not _is_line(value.get(member)):
            raise EventError(f"not {_LINE_RULE}", member)
    if not _TENANT.fullmatch(cast("str", value["tenant"])):
        raise EventError("a tenant is at most 64 letters, digits, dots, hyphens and underscores", "tenant")
    if not isinstance(value.get("time"), str) or not _TIME.fullmatch(cast("str", value["time"])):
        raise EventError("not a UTC time of RFC 3339 ending in Z", "time")
    for member in ("actor", "data"):
        if not isinstance(value.get(member), dict):
            raise EventError("missing or not an object", member)
    if not isinstance(cast("dict[str, Json]", value["actor"]).get("subject"), str):
        raise EventError("the actor's subject is missing or not text", "actor")


def _check_optional(value: Mapping[str, Json]) -> None:
    for member in _OPTIONAL_TEXT:
        if value.get(member, "") != "" and not _is_line(value[member]):
            raise EventError(f"not {_LINE_RULE}", member)
    if "policy" in value and not isinstance(value["policy"], dict):
        raise EventError("not an object", "policy")


def _check_journal(value: Mapping[str, Json]) -> None:
    if "seq" not in value:
        if "prev" in value:
            raise EventError("only an event with a seq has a prev", "prev")
        return
    seq = value["seq"]
    if type(seq) is not int or seq < 1:
        raise EventError("not a whole number from 1", "seq")
    if not value.get("run_id"):
        raise EventError("a journal event names its run", "run_id")
    if not is_hex32(value.get("prev")):
        raise EventError("not 64 lower-case hexadecimal digits", "prev")
    if seq == 1 and value["prev"] != GENESIS:
        raise EventError("the first journal event follows 64 zeros", "prev")
