"""The journal: rows of `run_event`, each with its audit event, chained by commitment."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import GENESIS, Evidence
from slipway_chassis.jcs import canonical_json, digest
from slipway_chassis.policy import PolicyDecision

from slipway_orchestrator.core.events import SCHEMA_VERSION, Event, decode, encode, step_of
from slipway_orchestrator.runs import JournalRow, RunIdentity

LARGE = 64 * 1024
"""Bytes of JSON from which a value is stored apart, once, and referenced by digest."""
_APART = ("output", "input", "arguments")
_PAGE_BYTES = 8 << 20

_INSERT = """
INSERT INTO run_event (run_id, seq, kind, step_id, schema_version, epoch, time, data, payloads, commitment)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""
_READ = """
SELECT seq, kind, step_id, time, data, payloads FROM run_event
WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""
_PAYLOAD = """
INSERT INTO payload (tenant, subject, digest, bytes, content) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant, subject, digest) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a journal."""

    seq: int = 0
    commitment: str = GENESIS


class Journal:
    """Appends to journals and reads them. Every text in them is sealed under the key of the run's subject."""

    def __init__(self, keys: SubjectKeys, evidence: Evidence) -> None:
        self._keys = keys
        self._evidence = evidence

    async def append(
        self,
        conn: Any,
        run: RunIdentity,
        head: Head,
        epoch: int,
        events: Sequence[tuple[datetime, Event]],
        policy: PolicyDecision | None = None,
    ) -> Head:
        """Append in the caller's transaction: rows, payloads and audit events. The caller holds the fence."""
        rows: list[tuple[Any, ...]] = []
        for time, event in events:
            data = encode(event)
            payloads = await self._store_apart(conn, run, data)
            sealed = self._evidence.seal(
                "run.event",
                caller=run.caller,
                subject=run.subject,
                resource=f"run:{run.run_id}",
                data=_audit_data(event, data, payloads, epoch),
                time=time,
                run_id=run.run_id,
                seq=head.seq + 1,
                prev=head.commitment,
                policy=policy,
                trace_id=run.trace_id,
            )
            await self._evidence.record(conn, sealed, subject=run.subject)
            head = Head(head.seq + 1, sealed.commitment)
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
            rows.append(
                (
                    run.run_id,
                    head.seq,
                    event.kind,
                    step_of(event),
                    SCHEMA_VERSION,
                    epoch,
                    time,
                    await self._keys.encrypt(conn, run.tenant, run.subject, text),
                    json.dumps(payloads) if payloads else None,
                    head.commitment,
                )
            )
        await conn.executemany(_INSERT, rows)
        return head

    async def read(
        self, conn: Any, run: RunIdentity, after_seq: int, limit: int, max_bytes: int = _PAGE_BYTES
    ) -> list[JournalRow]:
        """Rows after `after_seq`, in order; at least one if there is one, then no more than `max_bytes` of data."""
        found: list[JournalRow] = []
        size = 0
        for row in await conn.fetch(_READ, run.run_id, after_seq, limit):
            text = await self._keys.decrypt(conn, run.tenant, run.subject, row["data"])
            data: dict[str, JsonValue] = json.loads(text)
            size += len(text)
            for name, reference in json.loads(row["payloads"] or "{}").items():
                if found and size + reference["bytes"] > max_bytes:
                    return found
                data[name] = await self.payload(conn, run, reference["digest"])
                size += reference["bytes"]
            found.append(JournalRow(row["seq"], row["time"], row["kind"], row["step_id"], data))
            if size > max_bytes:
                break
        return found

    async def read_all(self, conn: Any, run: RunIdentity) -> list[tuple[datetime, Event]]:
        """All events that this code knows, in order."""
        events: list[tuple[datetime, Event]] = []
        after = 0
        while rows := await self.read(conn, run, after, 500):
            for row in rows:
                event = decode(row.kind, row.step_id, dict(row.data))
                if event is not None:
                    events.append((row.time, event))
            after = rows[-1].seq
        return events

    async def payload(self, conn: Any, run: RunIdentity, reference: str) -> JsonValue:
        """The value that is stored under a digest. KeyError when there is none."""
        content = await conn.fetchval(
            "SELECT content FROM payload WHERE tenant = $1 AND subject = $2 AND digest = $3",
            run.tenant,
            run.subject,
            reference,
        )
        if content is None:
            raise KeyError(reference)
        return json.loads(await self._keys.decrypt(conn, run.tenant, run.subject, content))

    async def seal(self, conn: Any, run: RunIdentity, value: JsonValue) -> bytes:
        """A value as sealed JSON, for columns beside the journal."""
        return await self._keys.encrypt(conn, run.tenant, run.subject, json.dumps(value, ensure_ascii=False).encode())

    async def _store_apart(
        self, conn: Any, run: RunIdentity, data: dict[str, JsonValue]
    ) -> dict[str, dict[str, str | int]]:
        references: dict[str, dict[str, str | int]] = {}
        for name in _APART:
            if name not in data:
                continue
            text = json.dumps(data[name], ensure_ascii=False).encode()
            if len(text) <= LARGE:
                continue
            reference = digest(data.pop(name))
            content = await self._keys.encrypt(conn, run.tenant, run.subject, text)
            await conn.execute(_PAYLOAD, run.tenant, run.subject, reference, len(text), content)
            references[name] = {"digest": reference, "bytes": len(text)}
        return references


def _audit_data(
    event: Event, data: Mapping[str, JsonValue], payloads: Mapping[str, Mapping[str, str | int]], epoch: int
) -> dict[str, Any]:
    """What the log says of an event. `payload` is the event's data as canonical JSON text: it may hold floats, which
    an audit event may not; `records` name the audit records that executors committed for it."""
    shown: dict[str, Any] = {"kind": event.kind, "epoch": epoch, "payload": canonical_json(dict(data)).decode()}
    step_id = step_of(event)
    if step_id is not None:
        shown["step_id"] = step_id
    if payloads:
        shown["payloads"] = {name: dict(reference) for name, reference in payloads.items()}
    records = data.get("records")
    if records:
        shown["records"] = records
    return shown
