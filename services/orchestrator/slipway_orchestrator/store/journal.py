"""The journal: rows of `run_event`, each with its audit event, chained by commitment."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import GENESIS, TOPIC, Evidence
from slipway_chassis.jcs import canonical_json, digest
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.telemetry import inject

from slipway_orchestrator.core.events import Event, decode, encode, step_of, version_of
from slipway_orchestrator.runs import JournalRow, RunIdentity

LARGE = 64 * 1024
"""Bytes of JSON from which a value is stored apart, once, and referenced by digest."""
_APART = ("output", "input", "arguments")
_APART_VERSION = 2
"""Version of a journal with values in `run_payload`; those of version 1 are in `payload`."""
_PAGE_BYTES = 8 << 20
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_INSERT = """
WITH event AS (
    INSERT INTO run_event (run_id, seq, kind, step_id, schema_version, epoch, time, data, payloads, commitment)
    SELECT $1, seq, kind, step_id, version, $2, time, data, payloads::jsonb, commitment
    FROM unnest($3::bigint[], $4::text[], $5::text[], $6::int[], $7::timestamptz[], $8::bytea[], $9::text[],
        $10::text[]) AS given (seq, kind, step_id, version, time, data, payloads, commitment)
)
INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body, receipt)
SELECT id, $14, $1, $15, $16, headers::jsonb, body, true
FROM unnest($11::text[], $12::text[], $13::bytea[]) WITH ORDINALITY AS given (id, headers, body, place) ORDER BY place
"""
_READ = """
SELECT seq, kind, step_id, time, data, payloads FROM run_event
WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""
_STORE_APART = """
INSERT INTO run_payload (month, tenant, subject, digest, bytes, content) VALUES (run_month($1), $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
_NEEDS_VERSION = "UPDATE run SET journal_version = greatest(journal_version, $2) WHERE run_id = $1"
_PAYLOAD = """
SELECT content FROM run_payload WHERE month = run_month($1) AND tenant = $2 AND subject = $3 AND digest = $4
UNION ALL SELECT content FROM payload WHERE tenant = $2 AND subject = $3 AND digest = $4
LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a journal."""

    seq: int = 0
    commitment: str = GENESIS


@dataclass(frozen=True, slots=True)
class Written:
    """What appending to one journal writes: sealed, and chained to what was there."""

    head: Head
    version: int
    """Version of the journal that a reader of these events must know."""
    rows: Sequence[tuple[Any, ...]]
    """seq, kind, step, version, time, data, payloads, commitment; id, headers and body of the audit event."""
    apart: Sequence[tuple[str, int, bytes]]
    """Digest, bytes and sealed content of values that are stored apart."""


class Journal:
    """Appends to journals and reads them. Every text in them is sealed under the key of the run's subject."""

    def __init__(self, keys: SubjectKeys, evidence: Evidence, outbox: Outbox) -> None:
        self._keys = keys
        self._evidence = evidence
        self._outbox = outbox

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
        written = await self.write(conn, run, head, epoch, events, policy)
        await self.store(conn, run, epoch, written)
        return written.head

    async def store(self, conn: Any, run: RunIdentity, epoch: int, written: Written) -> None:
        """Store what `write` has made, in the caller's transaction."""
        await self.store_apart(conn, run, written)
        columns = [list(column) for column in zip(*written.rows, strict=True)]
        if columns:
            await conn.execute(_INSERT, run.run_id, epoch, *columns, TOPIC, run.tenant, run.subject)
            await self._outbox.added(conn)

    async def write(
        self,
        conn: Any,
        run: RunIdentity,
        head: Head,
        epoch: int,
        events: Sequence[tuple[datetime, Event]],
        policy: PolicyDecision | None = None,
    ) -> Written:
        """What `append` would write. `conn` (or a pool) is asked for the subject's key only."""
        seal = await self._keys.sealer(conn, run.tenant, run.subject)
        trace = inject()
        resource = f"run:{run.run_id}"
        rows: list[tuple[Any, ...]] = []
        apart: list[tuple[str, int, bytes]] = []
        newest = 1
        for time, event in events:
            data = encode(event)
            payloads = _take_apart(data, seal, apart)
            version = max(version_of(event), _APART_VERSION if payloads else 1)
            newest = max(newest, version)
            sealed = self._evidence.seal(
                "run.event",
                caller=run.caller,
                subject=run.subject,
                resource=resource,
                data=_audit_data(event, data, payloads, epoch),
                time=time,
                run_id=run.run_id,
                seq=head.seq + 1,
                prev=head.commitment,
                policy=policy,
                trace_id=run.trace_id,
            )
            headers, body = self._evidence.message(sealed)
            head = Head(head.seq + 1, sealed.commitment)
            rows.append(
                (
                    head.seq,
                    event.kind,
                    step_of(event),
                    version,
                    time,
                    seal(_to_json(data).encode()),
                    _to_json(payloads) if payloads else None,
                    head.commitment,
                    sealed.event_id,
                    _to_json({**trace, **headers}),
                    seal(body),
                )
            )
        return Written(head, newest, rows, apart)

    async def store_apart(self, conn: Any, run: RunIdentity, written: Written) -> None:
        """Store the large values in the caller's transaction; the run is for workers that know where they are."""
        for reference, size, content in written.apart:
            await conn.execute(_STORE_APART, run.run_id, run.tenant, run.subject, reference, size, content)
        if written.apart:
            await conn.execute(_NEEDS_VERSION, run.run_id, _APART_VERSION)

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
        content = await conn.fetchval(_PAYLOAD, run.run_id, run.tenant, run.subject, reference)
        if content is None:
            raise KeyError(reference)
        return json.loads(await self._keys.decrypt(conn, run.tenant, run.subject, content))

    async def seal(self, conn: Any, run: RunIdentity, value: JsonValue) -> bytes:
        """A value as sealed JSON, for columns beside the journal."""
        return await self._keys.encrypt(conn, run.tenant, run.subject, json.dumps(value, ensure_ascii=False).encode())


def _take_apart(
    data: dict[str, JsonValue], seal: Callable[[bytes], bytes], apart: list[tuple[str, int, bytes]]
) -> dict[str, dict[str, str | int]]:
    """Move large values from `data` to `apart`; what remains of them is digest and size, by name."""
    references: dict[str, dict[str, str | int]] = {}
    for name in _APART:
        value = data.get(name)
        if value is None or isinstance(value, bool | int | float):
            continue
        text = _to_json(value).encode()
        if len(text) <= LARGE:
            continue
        reference = digest(data.pop(name))
        apart.append((reference, len(text), seal(text)))
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
