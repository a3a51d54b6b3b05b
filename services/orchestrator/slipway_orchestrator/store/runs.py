"""Rows of `run`: reading, listing, starting, and what people ask of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.outbox import Outbox

from slipway_orchestrator.runs import TERMINAL_STATES, Run, RunIdentity
from slipway_orchestrator.store.journal import Head, Journal

WAKE_UP = "run.wakeup"

_INSERT = """
INSERT INTO run (run_id, tenant, agent, version, digest, state, priority, wake_at, journal_version, subject, caller,
    session_id, labels, run_grant, input, last_seq, last_commitment, traceparent, trace_id, create_time, update_time)
VALUES ($1, $2, $3, $4, $5, 'QUEUED', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $19)
"""
_PENDING = """
(SELECT coalesce(array_agg(approval_id ORDER BY approval_id), '{}') FROM approval
 WHERE approval.run_id = run.run_id AND approval.state = 'PENDING') AS pending
"""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is about to be committed."""

    identity: RunIdentity
    head: Head
    input: JsonValue
    labels: Mapping[str, str]
    priority: int
    not_before: datetime | None
    run_grant: str
    journal_version: int
    time: datetime


class RunStore:
    """Runs in the database. Texts are sealed under the key of the run's subject."""

    def __init__(self, keys: SubjectKeys, journal: Journal, outbox: Outbox) -> None:
        self._keys = keys
        self._journal = journal
        self._outbox = outbox

    async def insert(self, conn: Any, run: NewRun) -> None:
        """Insert the row and its wake-up."""
        own = run.identity
        await conn.execute(
            _INSERT,
            own.run_id,
            own.tenant,
            own.agent,
            own.version,
            own.digest,
            run.priority,
            run.not_before or run.time,
            run.journal_version,
            own.subject,
            json.dumps(_caller_facts(own.caller)),
            own.session_id,
            json.dumps(dict(run.labels)),
            await self._keys.encrypt(conn, own.tenant, own.subject, run.run_grant.encode()),
            await self._journal.seal(conn, own, run.input),
            run.head.seq,
            run.head.commitment,
            own.traceparent,
            own.trace_id,
            run.time,
        )

    async def begin(self, conn: Any, run: RunIdentity, head: Head) -> None:
        """Note the end of the journal after its first event."""
        await conn.execute(
            "UPDATE run SET last_seq = $2, last_commitment = $3 WHERE run_id = $1",
            run.run_id,
            head.seq,
            head.commitment,
        )

    async def wake(self, conn: Any, run: RunIdentity, message_id: str) -> None:
        """Tell the workers of the run, in the transaction of what they shall see."""
        body = json.dumps({"run_id": run.run_id}).encode()
        await self._outbox.add(conn, WAKE_UP, body, message_id=message_id, tenant=run.tenant)

    async def get(self, conn: Any, tenant: str, run_id: str) -> Run | None:
        """The run; None when the tenant has none of that id."""
        row = await conn.fetchrow(f"SELECT *, {_PENDING} FROM run WHERE run_id = $1 AND tenant = $2", run_id, tenant)  # noqa: S608 - a constant
        return None if row is None else await self._run(conn, row, whole=True)

    async def lock(self, conn: Any, tenant: str, run_id: str) -> Run | None:
        """Like `get`, and nobody else changes the row until the transaction ends."""
        row = await conn.fetchrow(
            f"SELECT *, {_PENDING} FROM run"  # noqa: S608 - a constant
            " WHERE run_id = $1 AND tenant = $2 FOR NO KEY UPDATE",
            run_id,
            tenant,
        )
        return None if row is None else await self._run(conn, row, whole=True)

    async def last_seq(self, conn: Any, run_id: str) -> tuple[int, str]:
        """Sequence number of the last event, and the state."""
        row = await conn.fetchrow("SELECT last_seq, state FROM run WHERE run_id = $1", run_id)
        return row["last_seq"], row["state"]

    async def page(
        self,
        conn: Any,
        tenant: str,
        *,
        agent: str,
        states: Sequence[str],
        labels: Mapping[str, str],
        before: str,
        limit: int,
    ) -> list[Run]:
        """Runs with ids below `before`, newest first, without input and output."""
        rows = await conn.fetch(
            f"SELECT *, {_PENDING} FROM run WHERE tenant = $1 AND ($2 = '' OR agent = $2)"  # noqa: S608 - a constant
            " AND (cardinality($3::text[]) = 0 OR state = ANY($3)) AND labels @> $4::jsonb"
            " AND ($5 = '' OR run_id < $5) ORDER BY run_id DESC LIMIT $6",
            tenant,
            agent,
            list(states),
            json.dumps(dict(labels)),
            before,
            limit,
        )
        return [await self._run(conn, row, whole=False) for row in rows]

    async def put_in_inbox(
        self, conn: Any, run: RunIdentity, kind: Literal["decision", "cancel"], body: Mapping[str, JsonValue]
    ) -> None:
        """Leave something for the worker, and make a parked run due. The run's row is locked."""
        sealed = await self._journal.seal(conn, run, dict(body))
        await conn.execute("INSERT INTO run_inbox (run_id, kind, body) VALUES ($1, $2, $3)", run.run_id, kind, sealed)
        await conn.execute(
            "UPDATE run SET state = 'QUEUED', wake_at = now(), update_time = now()"
            " WHERE run_id = $1 AND state NOT IN ('RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED')",
            run.run_id,
        )

    async def grant(self, conn: Any, run: RunIdentity) -> str:
        """The grant that the run acts under."""
        sealed = await conn.fetchval("SELECT run_grant FROM run WHERE run_id = $1", run.run_id)
        return (await self._keys.decrypt(conn, run.tenant, run.subject, sealed)).decode()

    async def _run(self, conn: Any, row: Any, *, whole: bool) -> Run:
        identity = identity_of(row)

        async def opened(name: str) -> JsonValue:
            if not whole or row[name] is None:
                return None
            return json.loads(await self._keys.decrypt(conn, identity.tenant, identity.subject, row[name]))

        return Run(
            identity=identity,
            state=row["state"],
            input=await opened("input"),
            output=await opened("output"),
            error=json.loads(row["error"]) if row["error"] else None,
            steps=row["steps"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            cost_usd=row["cost_usd"],
            labels=json.loads(row["labels"]),
            last_seq=row["last_seq"],
            create_time=row["create_time"],
            update_time=row["update_time"],
            end_time=row["end_time"],
            pending_approval_ids=() if row["state"] in TERMINAL_STATES else tuple(row["pending"]),
        )


def identity_of(row: Any) -> RunIdentity:
    """The identity in a row of `run`."""
    facts = json.loads(row["caller"])
    caller = Caller(
        subject=row["subject"],
        tenant=row["tenant"],
        kind=cast(Literal["user", "service"], facts["kind"]),
        roles=frozenset(facts["roles"]),
        groups=frozenset(facts["groups"]),
        act=f"{row['agent']}@{row['version']}",
        run_id=row["run_id"],
        token_id=facts["token_id"],
        expires_at=datetime.max.replace(tzinfo=UTC),
        name=facts["name"],
    )
    return RunIdentity(
        run_id=row["run_id"],
        tenant=row["tenant"],
        agent=row["agent"],
        version=row["version"],
        digest=row["digest"],
        subject=row["subject"],
        caller=caller,
        traceparent=row["traceparent"],
        trace_id=row["trace_id"],
        session_id=row["session_id"],
    )


def _caller_facts(caller: Caller) -> dict[str, JsonValue]:
    return {
        "kind": caller.kind,
        "roles": list[JsonValue](sorted(caller.roles)),
        "groups": list[JsonValue](sorted(caller.groups)),
        "token_id": caller.token_id,
        "name": caller.name,
    }
