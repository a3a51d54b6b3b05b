"""Leaves: what the log takes from a message, and what it keeps."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from slipway_evidence.event import SALT_SIZE, Event, EventError, commitment, is_event_id, is_hex32, parse_event
from slipway_evidence.journal import JOURNAL_TYPE

from slipway_audit.errors import InvalidEvent


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf to be appended. Without `content` (salt ‖ canonical event) it was erased before it reached the log."""

    tenant: str
    event_id: str
    type: str
    commitment: bytes
    run_id: str = ""
    subject: str = ""
    time: datetime | None = None
    seq: int | None = None
    kind: str = ""
    content: bytes | None = None


def parse_leaf(message_id: str, tenant: str, body: bytes, headers: Mapping[str, str]) -> Leaf:
    """The leaf that a message of the topic `audit.events` brings. Raises InvalidEvent, never repeating content."""
    value = _object(body)
    if value.get("erased") is True:
        return _erased(message_id, tenant, headers)
    text, salt, digest = value.get("event"), value.get("salt"), value.get("commitment")
    if not isinstance(text, str) or not is_hex32(salt) or not is_hex32(digest):
        raise InvalidEvent("the body needs event, salt and commitment, the latter two as 64 hexadecimal digits")
    try:
        canonical = text.encode()
    except UnicodeEncodeError:
        raise InvalidEvent("the event holds a lone surrogate") from None
    raw_salt = bytes.fromhex(cast("str", salt))
    if commitment(raw_salt, canonical).hex() != digest:
        raise InvalidEvent("the commitment is not that of the salt and the event")
    try:
        event = parse_event(canonical)
    except EventError as error:
        raise InvalidEvent(f"{error.member}: {error}" if error.member else str(error)) from None
    if event.id != message_id or event.tenant != tenant:
        raise InvalidEvent("id or tenant of the message are not those of the event")
    return _leaf(event, raw_salt + canonical, bytes.fromhex(cast("str", digest)))


def open_content(content: bytes) -> tuple[bytes, str]:
    """Salt and canonical event of a leaf's content."""
    return content[:SALT_SIZE], content[SALT_SIZE:].decode()


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidEvent("the body is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidEvent("the body is not a JSON object")
    return cast("dict[str, Any]", value)


def _leaf(event: Event, content: bytes, digest: bytes) -> Leaf:
    kind = event.data.get("kind") if event.type == JOURNAL_TYPE and event.seq is not None else ""
    try:
        time = datetime.fromisoformat(event.time)
    except ValueError:
        raise InvalidEvent("time: not a time that exists") from None
    return Leaf(
        tenant=event.tenant,
        event_id=event.id,
        type=event.type,
        commitment=digest,
        run_id=event.run_id,
        subject=event.subject,
        time=time,
        seq=event.seq,
        kind=kind if isinstance(kind, str) else "",
        content=content,
    )


def _erased(message_id: str, tenant: str, headers: Mapping[str, str]) -> Leaf:
    """The leaf of an event whose subject was erased while it waited for the bus: its commitment came along."""
    digest = headers.get("commitment", "")
    if not is_event_id(message_id) or not is_hex32(digest) or not tenant:
        raise InvalidEvent("an erased event still needs its id, its tenant and its commitment")
    return Leaf(
        tenant=tenant,
        event_id=message_id,
        type=headers.get("event-type", "") or "unknown",
        commitment=bytes.fromhex(digest),
        run_id=headers.get("run-id", ""),
    )
