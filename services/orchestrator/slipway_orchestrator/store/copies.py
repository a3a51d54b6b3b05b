"""Copying the beginning of a journal into another run: rows as they are, in a chain of their own."""

import json
from typing import Any

from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import Evidence
from slipway_chassis.jcs import canonical_json

from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.journal import Head

_READ = """
SELECT seq, kind, step_id, schema_version, time, data, payloads FROM run_event
WHERE run_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT 500
"""
_INSERT = """
INSERT INTO run_event (run_id, seq, kind, step_id, schema_version, epoch, time, data, payloads, commitment)
VALUES ($1, $2, $3, $4, $5, 0, $6, $7, $8, $9)
"""
_COPY_APART = """
INSERT INTO run_payload (month, tenant, subject, digest, bytes, content)
SELECT run_month($2), tenant, subject, digest, bytes, content FROM (
    SELECT tenant, subject, digest, bytes, content FROM run_payload WHERE month = run_month($1)
    UNION ALL SELECT tenant, subject, digest, bytes, content FROM payload
) AS held
WHERE tenant = $3 AND subject = $4 AND digest IN (
    SELECT reference.value ->> 'digest' FROM run_event, jsonb_each(payloads) AS reference WHERE run_id = $2)
ON CONFLICT DO NOTHING
"""


class JournalCopies:
    """Copies rows. Both runs hold the data of one subject; large values stay stored once in a month."""

    def __init__(self, keys: SubjectKeys, evidence: Evidence) -> None:
        self._keys = keys
        self._evidence = evidence

    async def copy(self, conn: Any, source: RunIdentity, to: RunIdentity, head: Head, last_seq: int) -> Head:
        """Append the source's rows after `head` up to `last_seq` to the other run, each with its audit event."""
        while rows := await conn.fetch(_READ, source.run_id, head.seq, last_seq):
            copied: list[tuple[Any, ...]] = []
            for row in rows:
                text = await self._keys.decrypt(conn, source.tenant, source.subject, row["data"])
                commitment = await self._record(conn, to, head, row, json.loads(text))
                head = Head(row["seq"], commitment)
                copied.append(
                    (
                        to.run_id,
                        row["seq"],
                        row["kind"],
                        row["step_id"],
                        row["schema_version"],
                        row["time"],
                        await self._keys.encrypt(conn, to.tenant, to.subject, text),
                        row["payloads"],
                        commitment,
                    )
                )
            await conn.executemany(_INSERT, copied)
        await conn.execute(_COPY_APART, source.run_id, to.run_id, to.tenant, to.subject)
        return head

    async def kind(self, conn: Any, source: RunIdentity, seq: int) -> str | None:
        """Kind of one row; None when there is none."""
        return await conn.fetchval("SELECT kind FROM run_event WHERE run_id = $1 AND seq = $2", source.run_id, seq)

    async def _record(self, conn: Any, to: RunIdentity, head: Head, row: Any, data: dict[str, JsonValue]) -> str:
        shown: dict[str, Any] = {"kind": row["kind"], "epoch": 0, "payload": canonical_json(data).decode()}
        if row["step_id"] is not None:
            shown["step_id"] = row["step_id"]
        if row["payloads"]:
            shown["payloads"] = json.loads(row["payloads"])
        if data.get("records"):
            shown["records"] = data["records"]
        sealed = self._evidence.seal(
            "run.event",
            caller=to.caller,
            subject=to.subject,
            resource=f"run:{to.run_id}",
            data=shown,
            time=row["time"],
            run_id=to.run_id,
            seq=row["seq"],
            prev=head.commitment,
            trace_id=to.trace_id,
        )
        await self._evidence.record(conn, sealed, subject=to.subject)
        return sealed.commitment
