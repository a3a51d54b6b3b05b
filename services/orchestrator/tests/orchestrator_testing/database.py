"""The orchestrator's tables with runs in them, and what works on them in one process."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from slipway_chassis.bus import Bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import Evidence
from slipway_chassis.ids import new_id
from slipway_chassis.outbox import Outbox
from slipway_orchestrator.store.approvals import ApprovalStore
from slipway_orchestrator.store.journal import Journal
from slipway_orchestrator.store.leases import Leases
from slipway_orchestrator.store.queue import RunQueue
from slipway_orchestrator.store.runs import RunStore
from slipway_orchestrator.store.tree import RunTree

_INSERT = """
INSERT INTO run (run_id, tenant, agent, version, digest, state, priority, wake_at, journal_version, subject, caller,
    session_id, labels, run_grant, input, last_seq, last_commitment, traceparent, trace_id, root_run_id, worker_pool,
    session_policy, agent_concurrency)
VALUES ($1, $2, $3, 1, '', 'QUEUED', $4, $5, $6, 'alice',
    '{"kind": "user", "roles": [], "groups": [], "token_id": "t", "name": null, "subject": "alice", "owner": ""}',
    $7, '{}', '', '', 1, '', '', '', $1, $8, $9, $10)
"""
_END = "UPDATE run SET state = 'SUCCEEDED', wake_at = NULL, end_time = now() WHERE run_id = $1"


class Runs:
    """Runs put into the database as they are when somebody has started them."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool

    async def add(
        self,
        tenant: str = "acme",
        agent: str = "desk",
        *,
        count: int = 1,
        priority: int = 0,
        due_in: float = -1,
        version: int = 1,
        session: str = "",
        session_policy: str = "queue",
        worker_pool: str = "",
        concurrency: int | None = None,
    ) -> list[str]:
        due = datetime.now(UTC) + timedelta(seconds=due_in)
        ids = [new_id("run") for _ in range(count)]
        for place, run_id in enumerate(ids):
            at = due + timedelta(microseconds=place)
            await self.pool.execute(
                _INSERT, run_id, tenant, agent, priority, at, version, session, worker_pool, session_policy, concurrency
            )
        return ids

    async def end(self, run_id: str) -> None:
        await self.pool.execute(_END, run_id)

    def queue(self, owner: str = "w1", **more: Any) -> RunQueue:
        return RunQueue(self.pool, owner=owner, seconds=30, **more)

    def leases(self, bus: Bus, owner: str = "w1") -> Leases:
        keys = SubjectKeys(self.pool, base64.b64encode(b"k" * 32).decode())
        outbox = Outbox(self.pool, bus, keys)
        self.journal = journal = Journal(keys, Evidence("orchestrator", outbox), outbox)
        tree = RunTree(keys, journal, RunStore(keys, journal, outbox))
        return Leases(self.pool, keys, journal, ApprovalStore(keys, journal), outbox, tree, owner=owner, seconds=30)
