"""Leases: which worker may append to a run's journal. All times are the database's."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import asyncpg
from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction

from slipway_orchestrator.core.events import (
    SCHEMA_VERSION,
    ApprovalDecided,
    ApprovalRequested,
    Event,
    RunCancelled,
    RunFailed,
    RunSucceeded,
)
from slipway_orchestrator.core.state import Totals
from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.approvals import ApprovalStore
from slipway_orchestrator.store.journal import Head, Journal
from slipway_orchestrator.store.runs import identity_of

_CLAIM = """
WITH next AS (
    SELECT run_id, lease_owner AS previous_owner, wake_at AS due FROM run
    WHERE state = 'QUEUED' AND wake_at <= now() AND journal_version <= $3
    ORDER BY priority DESC, wake_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE run SET state = 'RUNNING', lease_owner = $1, lease_epoch = lease_epoch + 1,
    wake_at = now() + make_interval(secs => $2)
FROM next WHERE run.run_id = next.run_id
RETURNING run.*, next.previous_owner, next.due, clock_timestamp() AS database_time
"""
_FENCED = "run_id = $1 AND lease_epoch = $2 AND lease_owner = $3 AND state = 'RUNNING'"
# The statements below are put together from constants.
_COMMIT = f"""
UPDATE run SET last_seq = $4, last_commitment = $5, steps = $6, input_tokens = $7, output_tokens = $8, cost_usd = $9,
    update_time = now(), progress_epoch = lease_epoch,
    wake_at = CASE WHEN wake_at < now() + make_interval(secs => $10 / 2) THEN now() + make_interval(secs => $10)
              ELSE wake_at END
WHERE {_FENCED} RETURNING run_id
"""  # noqa: S608
_RENEW = f"""
UPDATE run SET wake_at = now() + make_interval(secs => $4) WHERE {_FENCED}
RETURNING EXISTS (SELECT FROM run_inbox WHERE run_inbox.run_id = run.run_id) AS asked
"""  # noqa: S608
_PARK = """
UPDATE run SET state = $2, wake_at = $3, lease_owner = NULL WHERE run_id = $1
"""
_END = """
UPDATE run SET state = $2, output = $3, error = $4, wake_at = NULL, lease_owner = NULL, end_time = now()
WHERE run_id = $1
"""
_LET_GO = f"UPDATE run SET state = 'QUEUED', wake_at = now() WHERE {_FENCED}"  # noqa: S608
_REQUEUE = """
UPDATE run SET state = 'QUEUED' WHERE run_id IN (
    SELECT run_id FROM run WHERE wake_at <= now() AND state <> 'QUEUED'
    ORDER BY wake_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING run_id, tenant, lease_owner
"""


class LeaseLost(Exception):
    """Another worker holds the run by now: nothing was written."""


class SettledMeanwhile(Exception):
    """An approval was decided just before it ran out: the inbox has the decision."""


@dataclass(slots=True)
class Lease:
    """A run that this worker may advance. Changes only through `Leases`."""

    run: RunIdentity
    epoch: int
    owner: str
    head: Head
    recovered: bool
    """The worker before lost it."""
    due: datetime
    idle_leases: int
    """Leases before this one under which nothing was written."""
    database_time: datetime
    claimed_at: float = field(default_factory=monotonic)

    def now(self) -> datetime:
        """The database's time."""
        return self.database_time + timedelta(seconds=monotonic() - self.claimed_at)


@dataclass(frozen=True, slots=True)
class InboxItem:
    """What somebody wants of a run."""

    id: int
    kind: str
    body: dict[str, JsonValue]


@dataclass(slots=True)
class Entry:
    """What one commit writes."""

    events: list[tuple[datetime, Event]] = field(default_factory=list[tuple[datetime, Event]])
    schemas: dict[str, str] = field(default_factory=dict[str, str])
    """JSON Schemas of the arguments of the approvals asked for, by approval."""
    consumed: list[int] = field(default_factory=list[int])
    """Inbox items that the events answer."""
    policy: PolicyDecision | None = None


class Leases:
    """Claims runs and commits what their worker decided, fenced by the lease's epoch."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: SubjectKeys,
        journal: Journal,
        approvals: ApprovalStore,
        *,
        owner: str,
        seconds: float,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._journal = journal
        self._approvals = approvals
        self._owner = owner
        self._seconds = seconds

    async def claim(self) -> Lease | None:
        """Lease the run that is due first, by priority; None when none is due."""
        async with transaction(self._pool) as conn:
            row = await conn.fetchrow(_CLAIM, self._owner, self._seconds, SCHEMA_VERSION)
        if row is None:
            return None
        return Lease(
            run=identity_of(row),
            epoch=row["lease_epoch"],
            owner=self._owner,
            head=Head(row["last_seq"], row["last_commitment"]),
            recovered=row["previous_owner"] is not None,
            due=row["due"],
            idle_leases=row["lease_epoch"] - row["progress_epoch"] - 1,
            database_time=row["database_time"],
        )

    async def read(self, lease: Lease) -> list[tuple[datetime, Event]]:
        """The run's journal."""
        async with self._pool.acquire() as conn:
            return await self._journal.read_all(conn, lease.run)

    async def inbox(self, lease: Lease) -> list[InboxItem]:
        """What others want of the run, in order."""
        async with self._pool.acquire() as conn:
            rows = await conn.fetch(
                "SELECT id, kind, body FROM run_inbox WHERE run_id = $1 ORDER BY id", lease.run.run_id
            )
            items: list[InboxItem] = []
            for row in rows:
                text = await self._keys.decrypt(conn, lease.run.tenant, lease.run.subject, row["body"])
                items.append(InboxItem(row["id"], row["kind"], json.loads(text)))
        return items

    async def commit(
        self,
        lease: Lease,
        entry: Entry,
        totals: Totals,
        *,
        park: tuple[str, datetime] | None = None,
    ) -> bool:
        """Write the entry in one transaction, and park (state, until) or end the run. True: the inbox has something.

        Raises LeaseLost, SettledMeanwhile, or Unavailable: then nobody knows whether it was written.
        """
        async with transaction(self._pool) as conn:
            await self._lock(conn, lease)
            head = await self._journal.append(conn, lease.run, lease.head, lease.epoch, entry.events, entry.policy)
            await conn.execute(
                _COMMIT,
                lease.run.run_id,
                lease.epoch,
                self._owner,
                head.seq,
                head.commitment,
                totals.steps,
                totals.input_tokens,
                totals.output_tokens,
                totals.cost_usd,
                self._seconds,
            )
            if entry.consumed:
                await conn.execute("DELETE FROM run_inbox WHERE id = ANY($1)", entry.consumed)
            for _, event in entry.events:
                await self._project(conn, lease, event, entry)
            asked = await conn.fetchval("SELECT EXISTS (SELECT FROM run_inbox WHERE run_id = $1)", lease.run.run_id)
            if park is not None:
                # Whoever puts something into the inbox locks the run first: nothing can slip in between.
                state, until = ("QUEUED", lease.now()) if asked else park
                await conn.execute(_PARK, lease.run.run_id, state, until)
        lease.head = head
        return bool(asked)

    async def renew(self, lease: Lease) -> bool:
        """Keep the run for another lease. True: the inbox has something. Raises LeaseLost or Unavailable."""
        async with transaction(self._pool) as conn:
            row = await conn.fetchrow(_RENEW, lease.run.run_id, lease.epoch, self._owner, self._seconds)
        if row is None:
            raise LeaseLost
        return row["asked"]

    async def let_go(self, lease: Lease) -> None:
        """Give the run back at once, for any worker to go on from its journal. No error when it was lost."""
        async with transaction(self._pool) as conn:
            await conn.execute(_LET_GO, lease.run.run_id, lease.epoch, self._owner)

    async def requeue_due(self, limit: int) -> list[tuple[str, str, bool]]:
        """Queue runs whose wait or lease is over: run, tenant, whether a lease ran out."""
        async with transaction(self._pool) as conn:
            rows = await conn.fetch(_REQUEUE, limit)
        return [(row["run_id"], row["tenant"], row["lease_owner"] is not None) for row in rows]

    async def next_wake(self) -> float | None:
        """Seconds until the next run is due that is not due yet; None when there is none."""
        async with transaction(self._pool) as conn:
            return await conn.fetchval(
                "SELECT extract(epoch FROM wake_at - now())::float8 FROM run"
                " WHERE wake_at > now() ORDER BY wake_at LIMIT 1"
            )

    async def count_states(self) -> Sequence[tuple[str, int]]:
        """Runs that have not ended, by state."""
        async with transaction(self._pool) as conn:
            rows = await conn.fetch("SELECT state, count(*) FROM run WHERE wake_at IS NOT NULL GROUP BY state")
        return [(row["state"], row["count"]) for row in rows]

    async def _lock(self, conn: Any, lease: Lease) -> None:
        held = await conn.fetchval(
            f"SELECT run_id FROM run WHERE {_FENCED} FOR NO KEY UPDATE",  # noqa: S608 - a constant
            lease.run.run_id,
            lease.epoch,
            self._owner,
        )
        if held is None:
            raise LeaseLost

    async def _project(self, conn: Any, lease: Lease, event: Event, entry: Entry) -> None:
        """What an event changes beside the journal."""
        match event:
            case ApprovalRequested():
                schema = entry.schemas.get(event.approval_id, "")
                await self._approvals.insert(conn, lease.run, event, schema)
            case ApprovalDecided(decision="expire"):
                if not await self._approvals.expire(conn, event.approval_id):
                    raise SettledMeanwhile
            case RunSucceeded(output=output):
                sealed = await self._journal.seal(conn, lease.run, output)
                await self._end(conn, lease, "SUCCEEDED", sealed, None)
            case RunFailed(code=code, message=message, step=step):
                error = {"code": code, "message": message, "step": step or ""}
                await self._end(conn, lease, "FAILED", None, json.dumps(error))
            case RunCancelled():
                await self._end(conn, lease, "CANCELLED", None, None)
            case _:
                pass

    async def _end(self, conn: Any, lease: Lease, state: str, output: bytes | None, error: str | None) -> None:
        await conn.execute(_END, lease.run.run_id, state, output, error)
        await conn.execute("DELETE FROM run_inbox WHERE run_id = $1", lease.run.run_id)
        await self._approvals.cancel_pending(conn, lease.run.run_id)
