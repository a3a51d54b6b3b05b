"""The queue: which runs are due, and which of them a worker takes. All times are the database's."""

from dataclasses import dataclass
from typing import Any

import asyncpg
from slipway_chassis.postgres import connection

from slipway_orchestrator.core.events import SCHEMA_VERSION
from slipway_orchestrator.store.journal import Head
from slipway_orchestrator.store.leases import Lease
from slipway_orchestrator.store.runs import identity_of

_CLAIM = "SELECT run_id, previous_owner, due FROM claim_runs($1, $2, $3, $4, $5, $6)"
_CLAIMED = """
SELECT run.*, clock_timestamp() AS database_time,
    EXISTS (SELECT FROM run AS child WHERE child.parent_run_id = run.run_id) AS has_children
FROM run WHERE run_id = ANY($1) AND lease_owner = $2 AND state = 'RUNNING'
"""
_REQUEUE = """
UPDATE run SET state = 'QUEUED' WHERE run_id IN (
    SELECT run_id FROM run WHERE state <> 'QUEUED' AND wake_at <= now()
    ORDER BY wake_at LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING run_id, tenant, worker_pool, lease_owner
"""
_REQUEUE_TOLD = """
UPDATE run SET state = 'QUEUED', wake_at = now() WHERE run_id IN (
    SELECT run_id FROM run WHERE run_id IN (SELECT run_id FROM run_inbox)
        AND state NOT IN ('QUEUED', 'RUNNING') AND end_time IS NULL
    LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED)
RETURNING run_id, tenant, worker_pool
"""
_NEXT_WAKE = """
SELECT extract(epoch FROM least(
    (SELECT wake_at FROM run WHERE state <> 'QUEUED' AND wake_at IS NOT NULL ORDER BY wake_at LIMIT 1),
    (SELECT wake_at FROM run WHERE state = 'QUEUED' AND wake_at > now() - interval '2 seconds'
        ORDER BY wake_at LIMIT 1)) - now())::float8
"""
_COUNT = "SELECT state, count(*) FROM run WHERE end_time IS NULL GROUP BY state"
_CLAIMABLE = "SELECT worker_pool, count(*) FROM run WHERE state = 'QUEUED' AND wake_at <= now() GROUP BY worker_pool"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run that is due, or in a worker's hands."""

    worker_pool: str
    held: bool
    asked: bool
    """Its inbox has something."""


class RunQueue:
    """Claims runs of one worker pool for one worker."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        owner: str,
        seconds: float,
        worker_pool: str = "",
        tenant_concurrency: int = 0,
        journal_version: int = SCHEMA_VERSION,
    ) -> None:
        """`seconds`: of a lease. `tenant_concurrency`: most runs of a tenant that all workers advance; 0: no bound.
        `journal_version`: the newest that the worker can read."""
        self._pool = pool
        self._owner = owner
        self._seconds = seconds
        self._worker_pool = worker_pool
        self._tenant_concurrency = tenant_concurrency
        self._journal_version = journal_version

    @property
    def worker_pool(self) -> str:
        """Label of the pool; empty: of runs that ask for none."""
        return self._worker_pool

    async def claim(self, most: int) -> list[Lease]:
        """Lease up to so many due runs of the worker's pool: fair between tenants, then by priority, then by time."""
        # No transaction around it: who claims has the runs at once, and reads them afterwards.
        async with connection(self._pool) as conn:
            found = await conn.fetch(
                _CLAIM,
                self._owner,
                self._seconds,
                self._worker_pool,
                self._journal_version,
                most,
                self._tenant_concurrency,
            )
            rows = await conn.fetch(_CLAIMED, [row["run_id"] for row in found], self._owner) if found else []
        before = {row["run_id"]: row for row in found}
        return [self._lease(row, before[row["run_id"]]) for row in rows]

    def _lease(self, row: Any, before: Any) -> Lease:
        return Lease(
            run=identity_of(row),
            epoch=row["lease_epoch"],
            owner=self._owner,
            head=Head(row["last_seq"], row["last_commitment"]),
            recovered=before["previous_owner"] is not None,
            due=before["due"],
            idle_leases=row["lease_epoch"] - row["progress_epoch"] - 1,
            database_time=row["database_time"],
            parent_run_id=row["parent_run_id"],
            has_children=row["has_children"],
        )

    async def look(self, run_id: str) -> Waiting | None:
        """Who is to look at a run that somebody was woken for; None when nobody is."""
        async with connection(self._pool) as conn:
            row = await conn.fetchrow(
                "SELECT state, worker_pool, EXISTS (SELECT FROM run_inbox WHERE run_inbox.run_id = run.run_id) AS asked"
                " FROM run WHERE run_id = $1 AND wake_at IS NOT NULL AND (state <> 'QUEUED' OR wake_at <= now())",
                run_id,
            )
        return None if row is None else Waiting(row["worker_pool"], row["state"] == "RUNNING", row["asked"])

    async def requeue_due(self, limit: int) -> list[tuple[str, str, str]]:
        """Queue runs whose wait or lease is over, and parked ones that were told something by a worker that died before
        it made them due: run, tenant, worker pool."""
        async with connection(self._pool) as conn:
            rows = await conn.fetch(_REQUEUE, limit)
            rows += await conn.fetch(_REQUEUE_TOLD, limit)
        return [(row["run_id"], row["tenant"], row["worker_pool"]) for row in rows]

    async def next_wake(self) -> float | None:
        """Seconds until the next run is due, not above 0 for what became due since somebody looked; None: none is.

        Runs that have long been queued do not count: they wait for a free worker, or for others of their tenant.
        """
        async with connection(self._pool) as conn:
            return await conn.fetchval(_NEXT_WAKE)

    async def count(self) -> tuple[dict[str, int], dict[str, int]]:
        """Runs that have not ended by state, and those that a worker could take now by worker pool."""
        async with connection(self._pool) as conn:
            states = {row["state"]: row["count"] for row in await conn.fetch(_COUNT)}
            claimable = {row["worker_pool"]: row["count"] for row in await conn.fetch(_CLAIMABLE)}
        return states, claimable
