"""A message of the bus, and what both adapters share about its form."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from slipway_chassis.errors import ResourceExhausted, SlipwayError

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Larger things are stored first and sent by reference: a broker is no object store."""

DEAD_REASON = "slipway-dead-reason"
"""Header of a dead letter: why its last delivery failed."""
DEAD_DELIVERIES = "slipway-dead-deliveries"
"""Header of a dead letter: how often it was delivered."""

CONSUMER_LOST = "CONSUMER_LOST: consumers ended without an answer"

_RESERVED_PREFIX = "slipway-"
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class MessageTooLarge(ResourceExhausted):
    """A message's body exceeds MAX_BODY_BYTES."""

    reason = "MESSAGE_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Message:
    """What a publisher sends and a handler gets.

    `id` names the event for idempotent consumers; a trace context travels in `headers` (``traceparent``). Header names
    that begin with ``slipway-`` belong to the bus and are not carried.
    """

    id: str
    topic: str
    body: bytes
    tenant: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def check_publishable(message: Message) -> None:
    """Raises MessageTooLarge or, for a topic that is no dotted name, ValueError."""
    check_name("topic", message.topic)
    if len(message.body) > MAX_BODY_BYTES:
        raise MessageTooLarge(
            f"message {message.id} for {message.topic}: body of {len(message.body)} bytes exceeds {MAX_BODY_BYTES}",
            metadata={"limit_bytes": str(MAX_BODY_BYTES), "actual_bytes": str(len(message.body))},
        )


def check_name(what: str, name: str) -> None:
    """Raises ValueError unless `name` is made of words of letters, digits, _ and - joined by dots."""
    if len(name) > 100 or not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r}: dotted words of letters, digits, _ and -, at most 100 characters")


def check_group(group: str) -> None:
    """Raises ValueError unless `group` is one word: ``<topic>.<group>`` must be unambiguous."""
    check_name("group", group)
    if "." in group:
        raise ValueError(f"group {group!r}: no dots")


def encode_headers(headers: Mapping[str, str]) -> str:
    """The publisher's headers as JSON, without those reserved for the bus."""
    own = {name: value for name, value in headers.items() if not name.startswith(_RESERVED_PREFIX)}
    return json.dumps(own, separators=(",", ":"))


def decode_headers(text: str | bytes) -> dict[str, str]:
    """Reverse of `encode_headers`; raises ValueError when it is not a JSON object."""
    decoded = json.loads(text)
    if not isinstance(decoded, dict):
        raise ValueError("headers are not a JSON object")
    return {str(name): str(value) for name, value in decoded.items()}


def failure_reason(error: Exception) -> str:
    """What a dead letter may say about `error`: public errors in full, of others the type only.

    The text of an unexpected exception can hold a document's words or a secret.
    """
    if isinstance(error, SlipwayError):
        return f"{error.reason}: {error}"
    return type(error).__name__
