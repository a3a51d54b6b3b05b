"""Rows of `run`: reading, listing, starting, and what people ask of a run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, cast

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import TOPIC as AUDIT_EVENTS
from slipway_chassis.ids import new_id
from slipway_chassis.outbox import Outbox
from slipway_chassis.telemetry import inject

from slipway_orchestrator.core.events import RunStarted
from slipway_orchestrator.runs import TERMINAL_STATES, Place, Run, RunIdentity
from slipway_orchestrator.store.journal import Head, Journal, Written

WAKE_UP = "run.wakeup"

_INSERT = """
INSERT INTO run (run_id, tenant, agent, version, digest, state, priority, wake_at, journal_version, subject, caller,
    session_id, labels, run_grant, input, last_seq, last_commitment, traceparent, trace_id, create_time, update_time,
    root_run_id, parent_run_id, parent_step, depth, forked_from_run_id, forked_from_seq, schedule, worker_pool,
    session_policy, not_before, agent_concurrency)
VALUES ($1, $2, $3, $4, $5, 'QUEUED', $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $19,
    $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)
"""
# The run, its first event with its audit event, and its wake-up: one round trip.
_LAUNCH = f"""
WITH launched AS ({_INSERT}),
event AS (
    INSERT INTO run_event (run_id, seq, kind, step_id, schema_version, epoch, time, data, payloads, commitment)
    VALUES ($1, $31, $32, NULL, $33, 0, $34, $35, $36, $37)
)
INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body, receipt) VALUES
    ($38, '{AUDIT_EVENTS}', $1, $2, $9, $39, $40, true),
    ($41, '{WAKE_UP}', '', $2, '', $42, $43, false)
"""  # noqa: S608 - constants
_PENDING = """
(SELECT coalesce(array_agg(approval_id ORDER BY approval_id), '{}') FROM approval
 WHERE approval.run_id = run.run_id AND approval.state = 'PENDING') AS pending
"""


InboxKind = Literal["decision", "cancel", "pause", "resume", "signal", "limits", "suspend", "unsuspend", "child"]


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
    place: Place
    worker_pool: str = ""
    session_policy: str = "queue"
    agent_concurrency: int | None = None
    """Most runs of the agent that workers advance at once, in the tenant; None: no bound."""

    def as_run(self) -> Run:
        """The run as it stands once that is committed."""
        return Run(
            identity=self.identity,
            state="QUEUED",
            input=self.input,
            output=None,
            error=None,
            steps=0,
            input_tokens=0,
            output_tokens=0,
            cost_usd=Decimal(0),
            labels=self.labels,
            last_seq=self.head.seq,
            create_time=self.time,
            update_time=self.time,
            end_time=None,
            pending_approval_ids=(),
            place=self.place,
            priority=self.priority,
            not_before=self.not_before,
        )


@dataclass(frozen=True, slots=True)
class NewChild:
    """A child run that its parent's commit begins: it acts under the parent's grant."""

    identity: RunIdentity
    started: RunStarted
    place: Place
    worker_pool: str
    journal_version: int
    time: datetime
    agent_concurrency: int | None = None


class RunStore:
    """Runs in the database. Texts are sealed under the key of the run's subject."""

    def __init__(self, keys: SubjectKeys, journal: Journal, outbox: Outbox) -> None:
        self._keys = keys
        self._journal = journal
        self._outbox = outbox

    async def insert(self, conn: Any, run: NewRun) -> None:
        """Insert the row."""
        await conn.execute(_INSERT, *await self._columns(conn, run))

    async def launch(self, conn: Any, run: NewRun, written: Written) -> None:
        """Insert the row, its first event as it was written, and its wake-up."""
        ((seq, kind, _step, version, time, data, payloads, commitment, event_id, headers, body),) = written.rows
        wake_up = json.dumps({"run_id": run.identity.run_id}).encode()
        event = (seq, kind, version, time, data, payloads, commitment, event_id, headers, body)
        wake = (new_id("wake"), json.dumps(inject()), wake_up)
        await conn.execute(_LAUNCH, *await self._columns(conn, run), *event, *wake)
        await self._journal.store_apart(conn, run.identity, written)
        await self._outbox.added(conn)

    async def _columns(self, conn: Any, run: NewRun) -> tuple[Any, ...]:
        own = run.identity
        return (
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
            run.place.root_run_id,
            run.place.parent_run_id or None,
            run.place.parent_step or None,
            run.place.depth,
            run.place.forked_from[0] if run.place.forked_from else None,
            run.place.forked_from[1] if run.place.forked_from else None,
            run.place.schedule,
            run.worker_pool,
            run.session_policy,
            run.not_before,
            run.agent_concurrency,
        )

    async def insert_child(self, conn: Any, parent: RunIdentity, child: NewChild) -> None:
        """Insert a child run with its first event and its wake-up, in the transaction of its parent's commit."""
        started = child.started
        await self.insert(
            conn,
            NewRun(
                identity=child.identity,
                head=Head(),
                input=started.input,
                labels=started.labels,
                priority=started.priority,
                not_before=None,
                run_grant=await self.grant(conn, parent),
                journal_version=child.journal_version,
                time=child.time,
                place=child.place,
                worker_pool=child.worker_pool,
                agent_concurrency=child.agent_concurrency,
            ),
        )
        head = await self._journal.append(conn, child.identity, Head(), 0, [(child.time, started)])
        await self.begin(conn, child.identity, head)
        await self.wake(conn, child.identity, new_id("wake"))

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
        parent_run_id: str,
        before: str,
        limit: int,
    ) -> list[Run]:
        """Runs with ids below `before`, newest first, without input and output."""
        rows = await conn.fetch(
            f"SELECT *, {_PENDING} FROM run WHERE tenant = $1 AND ($2 = '' OR agent = $2)"  # noqa: S608 - a constant
            " AND (cardinality($3::text[]) = 0 OR state = ANY($3)) AND labels @> $4::jsonb"
            " AND ($5 = '' OR run_id < $5) AND ($7 = '' OR parent_run_id = $7) ORDER BY run_id DESC LIMIT $6",
            tenant,
            agent,
            list(states),
            json.dumps(dict(labels)),
            before,
            limit,
            parent_run_id,
        )
        return [await self._run(conn, row, whole=False) for row in rows]

    async def children(self, conn: Any, run_id: str, limit: int) -> list[str]:
        """Ids of a run's children, oldest first."""
        rows = await conn.fetch(
            "SELECT run_id FROM run WHERE parent_run_id = $1 ORDER BY run_id LIMIT $2", run_id, limit
        )
        return [row["run_id"] for row in rows]

    async def on_session(self, conn: Any, tenant: str, session_id: str) -> list[RunIdentity]:
        """Unfinished runs of a session, oldest first; no other one begins there until the transaction ends."""
        await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"session/{tenant}/{session_id}")
        rows = await conn.fetch(
            "SELECT * FROM run WHERE tenant = $1 AND session_id = $2 AND session_id <> '' AND end_time IS NULL"
            " ORDER BY run_id FOR NO KEY UPDATE",
            tenant,
            session_id,
        )
        return [identity_of(row) for row in rows]

    async def cancellable(
        self,
        conn: Any,
        tenant: str,
        agent: str,
        states: Sequence[str],
        labels: Mapping[str, str],
        after: str,
        limit: int,
    ) -> list[RunIdentity]:
        """Unfinished runs with ids above `after` that nobody has cancelled yet, locked, in order."""
        rows = await conn.fetch(
            "SELECT * FROM run WHERE tenant = $1 AND end_time IS NULL AND ($2 = '' OR agent = $2)"
            " AND (cardinality($3::text[]) = 0 OR state = ANY($3)) AND labels @> $4::jsonb AND run_id > $5"
            " AND NOT EXISTS (SELECT FROM run_inbox i WHERE i.run_id = run.run_id AND i.kind = 'cancel')"
            " ORDER BY run_id LIMIT $6 FOR NO KEY UPDATE",
            tenant,
            agent,
            list(states),
            json.dumps(dict(labels)),
            after,
            limit,
        )
        return [identity_of(row) for row in rows]

    async def in_inbox(self, conn: Any, run_id: str, kinds: Sequence[InboxKind]) -> int:
        """How many items of these kinds wait in a run's inbox; of all kinds when none is named."""
        return await conn.fetchval(
            "SELECT count(*) FROM run_inbox WHERE run_id = $1 AND (cardinality($2::text[]) = 0 OR kind = ANY($2))",
            run_id,
            list(kinds),
        )

    async def put_in_inbox(self, conn: Any, run: RunIdentity, kind: InboxKind, body: Mapping[str, JsonValue]) -> None:
        """Leave something for the worker, and make a parked run due. The run's row is locked."""
        sealed = await self._journal.seal(conn, run, dict(body))
        await conn.execute("INSERT INTO run_inbox (run_id, kind, body) VALUES ($1, $2, $3)", run.run_id, kind, sealed)
        await conn.execute(
            # A worker of the first release reads only two kinds: the others raise what a worker must be able to read.
            "UPDATE run SET journal_version = CASE WHEN $2 THEN journal_version ELSE greatest(journal_version, 2) END,"
            " state = CASE WHEN state = 'RUNNING' THEN state ELSE 'QUEUED' END,"
            # A delayed start stays one: but for a cancel, whatever comes waits for it.
            " wake_at = CASE WHEN state = 'RUNNING' OR (state = 'QUEUED' AND not_before > now() AND $3) THEN wake_at"
            " ELSE now() END, update_time = now()"
            " WHERE run_id = $1 AND end_time IS NULL",
            run.run_id,
            kind in ("decision", "cancel"),
            kind != "cancel",
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
            place=_place(row),
            priority=row["priority"],
            not_before=row["not_before"],
        )


def identity_of(row: Any) -> RunIdentity:
    """The identity in a row of `run`."""
    facts = json.loads(row["caller"])
    caller = Caller(
        # Whoever forks a run acts in it, but what it holds stays the subject's of the run that was forked.
        subject=facts.get("subject", row["subject"]),
        tenant=row["tenant"],
        kind=cast(Literal["user", "service"], facts["kind"]),
        roles=frozenset(facts["roles"]),
        groups=frozenset(facts["groups"]),
        act=f"{row['agent']}@{row['version']}",
        run_id=row["run_id"],
        token_id=facts["token_id"],
        expires_at=datetime.max.replace(tzinfo=UTC),
        name=facts["name"],
        owner=facts.get("owner", ""),
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


def _place(row: Any) -> Place:
    forked = row["forked_from_run_id"]
    return Place(
        root_run_id=row["root_run_id"],
        parent_run_id=row["parent_run_id"] or "",
        parent_step=row["parent_step"] or "",
        depth=row["depth"],
        forked_from=(forked, row["forked_from_seq"]) if forked else None,
        schedule=row["schedule"],
    )


def _caller_facts(caller: Caller) -> dict[str, JsonValue]:
    return {
        "subject": caller.subject,
        "owner": caller.owner,
        "kind": caller.kind,
        "roles": list[JsonValue](sorted(caller.roles)),
        "groups": list[JsonValue](sorted(caller.groups)),
        "token_id": caller.token_id,
        "name": caller.name,
    }
