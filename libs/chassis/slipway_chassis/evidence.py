"""Audit events: sealed by the service that acts, in the transaction of the act.

The canonical event is RFC 8785 JSON: ``schema`` 1, ``id``, ``type``, ``tenant``, ``time``, ``service``, ``actor``
(``subject``, ``kind``, ``act``, ``roles``, ``token_id``), ``subject``, ``resource``, ``run_id``, ``seq``, ``prev``,
``policy`` (``digest``, ``policies``), ``trace_id``, ``data``. Absent values are left out. The commitment is
SHA-256(salt ‖ canonical event); a run's journal is chained by ``prev``, the commitment of the event before it.

On the bus (topic ``audit.events``, message id = event id) the body is ``{"event": <canonical text>, "salt": <hex>,
"commitment": <hex>}``. The commitment also stands in the header ``commitment``, and type and run in ``event-type`` and
``run-id``: if the subject is erased before the event was published, the body is ``{"erased": true, "id": …}``, and the
log can still take the leaf. The outbox keeps an event until the log has said that it holds it.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from slipway_chassis.caller import Caller
from slipway_chassis.ids import new_id
from slipway_chassis.jcs import canonical_json
from slipway_chassis.outgoing import Outgoing
from slipway_chassis.policy import PolicyDecision

TOPIC = "audit.events"
GENESIS = "0" * 64
"""``prev`` of the first event of a journal."""

_SALT_BYTES = 32


@dataclass(frozen=True)
class SealedEvent:
    """An event that can no longer change: its canonical text, its salt, and the commitment to both (hex)."""

    event_id: str
    tenant: str
    type: str
    run_id: str | None
    canonical: bytes
    salt: bytes
    commitment: str


class EventOutbox(Protocol):
    """Where events wait for the bus."""

    async def add_all(self, conn: Any, messages: Sequence[Outgoing]) -> None:
        """Add messages in the transaction of ``conn``."""
        ...


class Evidence:
    """Seals and records the audit events of one service."""

    def __init__(self, service: str, outbox: EventOutbox) -> None:
        self._service = service
        self._outbox = outbox

    def seal(
        self,
        type: str,  # noqa: A002 - the field's name in the event
        *,
        caller: Caller,
        subject: str,
        resource: str,
        data: Mapping[str, Any],
        time: datetime,
        run_id: str | None = None,
        seq: int | None = None,
        prev: str | None = None,
        policy: PolicyDecision | None = None,
        trace_id: str = "",
        tenant: str | None = None,
    ) -> SealedEvent:
        """Seal what ``caller`` did to ``resource``; ``subject`` is the person whom the event is about.

        ``data`` is JSON without floats (money and scores are strings). ``time`` is timezone-aware. ``tenant`` is the
        caller's unless given (service principals that act for one). Raises NotCanonical, or ValueError for floats.
        """
        owner = caller.tenant if tenant is None else tenant
        event_id = new_id("aev")
        actor = {
            "subject": caller.subject,
            "kind": caller.kind,
            "act": caller.act,
            "roles": sorted(caller.roles),
            "token_id": caller.token_id,
        }
        _refuse_floats(data)
        event = {
            "schema": 1,
            "id": event_id,
            "type": type,
            "tenant": owner,
            "time": _rfc3339(time),
            "service": self._service,
            "actor": _present(actor),
            "subject": subject,
            "resource": resource,
            "run_id": run_id,
            "seq": seq,
            "prev": prev,
            "policy": {"digest": policy.digest, "policies": list(policy.policies)} if policy else None,
            "trace_id": trace_id or None,
            "data": dict(data),
        }
        canonical = canonical_json(_present(event))
        salt = os.urandom(_SALT_BYTES)
        return SealedEvent(event_id, owner, type, run_id, canonical, salt, commitment(salt, canonical))

    def message(self, sealed: SealedEvent) -> tuple[dict[str, str], bytes]:
        """Headers and body of the event on the bus."""
        headers = {"commitment": sealed.commitment, "event-type": sealed.type}
        if sealed.run_id:
            headers["run-id"] = sealed.run_id
        body = {"event": sealed.canonical.decode(), "salt": sealed.salt.hex(), "commitment": sealed.commitment}
        return headers, orjson.dumps(body)

    async def record(self, conn: Any, sealed: SealedEvent, *, subject: str) -> None:
        """Put the event into the outbox, in the transaction of the act, encrypted under the key of ``subject``."""
        await self.record_all(conn, [(sealed, subject)])

    async def record_all(self, conn: Any, events: Sequence[tuple[SealedEvent, str]]) -> None:
        """As ``record``, for many events with their subjects, in one statement."""
        outgoing: list[Outgoing] = []
        for sealed, subject in events:
            headers, body = self.message(sealed)
            outgoing.append(
                Outgoing(
                    topic=TOPIC,
                    body=body,
                    message_id=sealed.event_id,
                    tenant=sealed.tenant,
                    subject=subject,
                    headers=headers,
                    ordering_key=sealed.run_id or "",
                    receipt=True,
                )
            )
        await self._outbox.add_all(conn, outgoing)


def commitment(salt: bytes, canonical: bytes) -> str:
    """Hex SHA-256 of salt and canonical event: the leaf's content in the audit log."""
    return hashlib.sha256(salt + canonical).hexdigest()


def _rfc3339(time: datetime) -> str:
    if time.tzinfo is None:
        raise ValueError("the time of an event needs a time zone")
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _refuse_floats(value: Any) -> None:
    """Floats have more than one fair spelling; other languages would read another event."""
    if type(value) is str:
        return
    if isinstance(value, float):
        raise ValueError("an event holds no floats: write money and scores as strings")
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
