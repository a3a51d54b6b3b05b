"""A message on its way into an outbox."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to be added; the fields are those of `Outbox.add`."""

    topic: str
    body: bytes
    message_id: str
    tenant: str
    subject: str
    headers: Mapping[str, str]
    ordering_key: str
    receipt: bool
