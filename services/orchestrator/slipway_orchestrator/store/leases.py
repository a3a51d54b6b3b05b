"""Leases: which worker may append to a run's journal. All times are the database's."""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import asyncpg
from pydantic import JsonValue
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import connection, domain_errors, transaction

from slipway_orchestrator.core.actions import Tree
from slipway_orchestrator.core.definition import Limits
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalReminded,
    ApprovalRequested,
    Event,
    RunCancelled,
    RunFailed,
    RunSucceeded,
)
from slipway_orchestrator.core.state import Totals
from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.approvals import ApprovalStore
from slipway_orchestrator.store.committing import Committer, LeaseLost, RunCommit
from slipway_orchestrator.store.journal import Head, Journal
from slipway_orchestrator.store.runs import NewChild
from slipway_orchestrator.store.tree import RunTree

_FENCED = "run_id = $1 AND lease_epoch = $2 AND lease_owner = $3 AND state = 'RUNNING'"
# The statements below are put together from constants.
_RENEW = f"""
UPDATE run SET wake_at = now() + make_interval(secs => $4) WHERE {_FENCED}
RETURNING EXISTS (SELECT FROM run_inbox WHERE run_inbox.run_id = run.run_id) AS asked
"""  # noqa: S608
_HOLD = f"SELECT run_id FROM run WHERE {_FENCED} FOR NO KEY UPDATE"  # noqa: S608
_LET_GO = f"UPDATE run SET state = 'QUEUED', wake_at = now() WHERE {_FENCED}"  # noqa: S608

_ASIDE = (ApprovalRequested, ApprovalReminded, ApprovalDecided)
"""Events that may change more than the run and its journal: their commits are transactions by themselves."""


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
    parent_run_id: str | None = None
    has_children: bool = False
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
    children: list[NewChild] = field(default_factory=list[NewChild])
    """Child runs that begin with it."""
    abandoned: list[str] = field(default_factory=list[str])
    """Child runs that are to be cancelled."""
    tree_limits: Limits | None = None
    """What binds all runs of the tree of which this one is the root; None: as it was."""


class Leases:
    """Claims runs and commits what their worker decided, fenced by the lease's epoch."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        keys: SubjectKeys,
        journal: Journal,
        approvals: ApprovalStore,
        outbox: Outbox,
        tree: RunTree,
        *,
        owner: str,
        seconds: float,
    ) -> None:
        self._pool = pool
        self._keys = keys
        self._journal = journal
        self._approvals = approvals
        self._tree = tree
        self._owner = owner
        self.seconds = seconds
        """How long a lease lasts without a commit."""
        self._outbox = outbox
        self._committer = Committer(pool, outbox, owner=owner, seconds=seconds)

    async def read(self, lease: Lease) -> list[tuple[datetime, Event]]:
        """The run's journal."""
        async with connection(self._pool) as conn:
            return await self._journal.read_all(conn, lease.run)

    async def inbox(self, lease: Lease) -> list[InboxItem]:
        """What others want of the run, in order."""
        async with connection(self._pool) as conn:
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
        run = lease.run
        with domain_errors():
            seal = await self._keys.sealer(self._pool, run.tenant, run.subject)
            written = await self._journal.write(self._pool, run, lease.head, lease.epoch, entry.events, entry.policy)
        state, until = park if park is not None else ("", None)
        output: bytes | None = None
        error: str | None = None
        for _, event in entry.events:
            match event:
                case RunSucceeded(output=value):
                    state, output = "SUCCEEDED", seal(json.dumps(value, ensure_ascii=False).encode())
                case RunFailed(code=code, message=message, step=step):
                    state, error = "FAILED", json.dumps({"code": code, "message": message, "step": step or ""})
                case RunCancelled():
                    state = "CANCELLED"
                case _:
                    pass
        commit = RunCommit(
            run_id=run.run_id,
            epoch=lease.epoch,
            written=written,
            steps=totals.steps,
            input_tokens=totals.input_tokens,
            output_tokens=totals.output_tokens,
            cost_usd=totals.cost_usd,
            state=state,
            until=until,
            output=output,
            error=error,
            consumed=entry.consumed,
        )
        related = bool(entry.children or entry.abandoned or entry.tree_limits) or (
            commit.ends and (lease.parent_run_id is not None or lease.has_children)
        )
        if related or written.apart or any(isinstance(event, _ASIDE) for _, event in entry.events):
            asked = await self._commit_more(lease, entry, commit)
        else:
            asked = await self._committer.commit(commit)
        lease.head = written.head
        return asked

    async def _commit_more(self, lease: Lease, entry: Entry, commit: RunCommit) -> bool:
        """Commit what changes more than the run and its journal."""
        async with transaction(self._pool) as conn:
            if await conn.fetchval(_HOLD, lease.run.run_id, lease.epoch, self._owner) is None:
                raise LeaseLost
            await self._journal.store_apart(conn, lease.run, commit.written)
            for _, event in entry.events:
                await self._project(conn, lease, event, entry)
            # After that, for it closes what the run leaves open when it ends.
            asked = await self._committer.write(conn, commit)
            await self._outbox.added(conn)
            await self._tree.begin(conn, lease.run, entry.children)
            told = await self._tree.cancel(conn, entry.abandoned)
            if entry.tree_limits is not None:
                told += await self._tree.limit(conn, lease.run, entry.tree_limits)
            if commit.ends:
                tainted = any(isinstance(event, RunSucceeded) and event.tainted for _, event in entry.events)
                told += await self._tree.ended(conn, lease.run, tainted=tainted)
        lease.has_children = lease.has_children or bool(entry.children)
        if told:
            async with transaction(self._pool) as conn:
                await self._tree.wake(conn, told)
        return asked

    async def _project(self, conn: Any, lease: Lease, event: Event, entry: Entry) -> None:
        match event:
            case ApprovalRequested():
                schema = entry.schemas.get(event.approval_id, "")
                await self._approvals.insert(conn, lease.run, event, schema)
            case ApprovalReminded(approval_id=approval_id, count=count):
                await self._approvals.remind(conn, approval_id, count)
            case ApprovalDecided(decision="expire"):
                if not await self._approvals.expire(conn, event.approval_id):
                    raise SettledMeanwhile
            case ApprovalDecided(decision="cancel", approval_id=approval_id):
                await self._approvals.give_up(conn, approval_id)
            case _:
                pass

    async def used_by_others(self, lease: Lease, root_run_id: str) -> Tree | None:
        """What the other runs of the run's tree have used, and what all may; None while nothing binds them."""
        async with transaction(self._pool) as conn:
            return await self._tree.used_by_others(conn, lease.run.run_id, root_run_id)

    async def renew(self, lease: Lease) -> bool:
        """Keep the run for another lease. True: the inbox has something. Raises LeaseLost or Unavailable."""
        async with connection(self._pool) as conn:
            row = await conn.fetchrow(_RENEW, lease.run.run_id, lease.epoch, self._owner, self.seconds)
        if row is None:
            raise LeaseLost
        return row["asked"]

    async def let_go(self, lease: Lease) -> None:
        """Give the run back at once, for any worker to go on from its journal. No error when it was lost."""
        async with connection(self._pool) as conn:
            await conn.execute(_LET_GO, lease.run.run_id, lease.epoch, self._owner)
