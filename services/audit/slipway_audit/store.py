"""The log in PostgreSQL: appends under the lock of the tenant's row, and everything that is read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
from slipway_chassis.crypto import SubjectErased, SubjectKeys
from slipway_chassis.postgres import transaction
from slipway_evidence.merkle import Frontier, Node, leaf_hash

from slipway_audit.leaf import Leaf, open_content
from slipway_audit.tree_store import complete_tiles, read_nodes, read_root

_COLUMNS = (
    "tenant", "index", "event_id", "type", "event_time", "run_id", "seq", "kind", "subject", "commitment", "sealed",
)  # fmt: skip
_SELECT = "SELECT index, event_id, type, event_time, run_id, seq, kind, subject, commitment, sealed FROM audit_leaf "


@dataclass(frozen=True, slots=True)
class StoredLeaf:
    """A leaf of the log. `salt` and `event` are None when its content was erased."""

    index: int
    event_id: str
    type: str
    time: datetime | None
    run_id: str
    seq: int | None
    kind: str
    commitment: bytes
    salt: bytes | None
    event: str | None


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch: the leaves that were new, the size of the log after them, and leaves whose id
    stands for another event."""

    appended: tuple[Leaf, ...]
    size: int
    conflicts: tuple[Leaf, ...]
    time: datetime


class LogStore:
    """All logs of one database."""

    def __init__(self, pool: asyncpg.Pool, keys: SubjectKeys) -> None:
        self._pool = pool
        self._keys = keys

    async def append(self, tenant: str, leaves: Sequence[Leaf]) -> Appended:
        """Append leaves in one transaction; those that are there already are left alone."""
        async with transaction(self._pool) as conn:
            state = await self._lock_or_create(conn, tenant)
            known = await self._commitments(conn, tenant, [leaf.event_id for leaf in leaves])
            fresh: list[Leaf] = []
            conflicts: list[Leaf] = []
            for leaf in leaves:
                if leaf.event_id not in known:
                    known[leaf.event_id] = leaf.commitment
                    fresh.append(leaf)
                elif known[leaf.event_id] != leaf.commitment:
                    conflicts.append(leaf)
            if fresh:
                await self._write(conn, tenant, state, fresh)
        return Appended(tuple(fresh), state["size"] + len(fresh), tuple(conflicts), datetime.now(UTC))

    async def _lock_or_create(self, conn: Any, tenant: str) -> Any:
        query = "SELECT size, frontier FROM audit_log WHERE tenant = $1 FOR UPDATE"
        row = await conn.fetchrow(query, tenant)
        if row is None:
            await conn.execute("INSERT INTO audit_log (tenant) VALUES ($1) ON CONFLICT DO NOTHING", tenant)
            row = await conn.fetchrow(query, tenant)
        return row

    async def _commitments(self, conn: Any, tenant: str, event_ids: Sequence[str]) -> dict[str, bytes]:
        rows = await conn.fetch(
            "SELECT event_id, commitment FROM audit_leaf WHERE tenant = $1 AND event_id = ANY($2)", tenant, event_ids
        )
        return {row["event_id"]: row["commitment"] for row in rows}

    async def _write(self, conn: Any, tenant: str, state: Any, leaves: Sequence[Leaf]) -> None:
        size, frontier = state["size"], Frontier.unpack(state["size"], state["frontier"])
        hashes = [leaf_hash(leaf.commitment) for leaf in leaves]
        for one in hashes:
            frontier.append(one)
        rows = [await self._row(conn, index, leaf) for index, leaf in enumerate(leaves, start=size)]
        # The tiles are made of the leaves before these: written first, they do not read what is added here.
        await complete_tiles(conn, tenant, size, hashes)
        await conn.copy_records_to_table("audit_leaf", records=rows, columns=_COLUMNS)
        await conn.execute(
            "UPDATE audit_log SET size = $2, frontier = $3 WHERE tenant = $1", tenant, frontier.size, frontier.pack()
        )

    async def _row(self, conn: Any, index: int, leaf: Leaf) -> tuple[object, ...]:
        content = leaf.content
        sealed = None if content is None else await self._keys.encrypt(conn, leaf.tenant, leaf.subject, content)
        return (
            leaf.tenant, index, leaf.event_id, leaf.type, leaf.time, leaf.run_id, leaf.seq, leaf.kind, leaf.subject,
            leaf.commitment, sealed,
        )  # fmt: skip

    async def run_leaves(self, tenant: str, run_id: str, limit: int) -> list[StoredLeaf]:
        """The first leaves that name a run, in the log's order."""
        return await self._leaves(
            _SELECT + "WHERE tenant = $1 AND run_id = $2 AND run_id <> '' ORDER BY index LIMIT $3",
            tenant, run_id, limit,
        )  # fmt: skip

    async def leaves_by_id(self, tenant: str, event_ids: Sequence[str]) -> list[StoredLeaf]:
        """Leaves by their events' ids; those that are not there are left out."""
        return await self._leaves(_SELECT + "WHERE tenant = $1 AND event_id = ANY($2)", tenant, event_ids)

    async def page(self, tenant: str, run_id: str, event_type: str, after: int, limit: int) -> list[StoredLeaf]:
        """Leaves after index `after` in the log's order; empty filters match all."""
        return await self._leaves(
            _SELECT + "WHERE tenant = $1 AND index > $2 AND ($3 = '' OR run_id = $3) AND ($4 = '' OR type = $4)"
            " ORDER BY index LIMIT $5",
            tenant, after, run_id, event_type, limit,
        )  # fmt: skip

    async def _leaves(self, query: str, tenant: str, *arguments: object) -> list[StoredLeaf]:
        async with transaction(self._pool) as conn:
            return [await self._open(conn, tenant, row) for row in await conn.fetch(query, tenant, *arguments)]

    async def _open(self, conn: Any, tenant: str, row: Any) -> StoredLeaf:
        salt: bytes | None = None
        event: str | None = None
        if row["sealed"] is not None:
            try:
                salt, event = open_content(await self._keys.decrypt(conn, tenant, row["subject"], row["sealed"]))
            except SubjectErased:
                salt = event = None
        return StoredLeaf(
            index=row["index"],
            event_id=row["event_id"],
            type=row["type"],
            time=row["event_time"],
            run_id=row["run_id"],
            seq=row["seq"],
            kind=row["kind"],
            commitment=row["commitment"],
            salt=salt,
            event=event,
        )

    async def index_of(self, tenant: str, event_id: str) -> int | None:
        """Index of an event's leaf, or None."""
        async with transaction(self._pool) as conn:
            return await conn.fetchval(
                "SELECT index FROM audit_leaf WHERE tenant = $1 AND event_id = $2", tenant, event_id
            )

    async def nodes(self, tenant: str, size: int, nodes: Sequence[Node]) -> dict[Node, bytes]:
        """Hashes of complete subtrees of the tree of the first `size` leaves."""
        async with transaction(self._pool) as conn:
            return await read_nodes(conn, tenant, size, nodes)

    async def root(self, tenant: str, size: int) -> bytes:
        """Root of the tree of the first `size` leaves."""
        async with transaction(self._pool) as conn:
            return await read_root(conn, tenant, size)

    async def commitment(self, tenant: str, index: int) -> bytes | None:
        """Data of a leaf, or None."""
        async with transaction(self._pool) as conn:
            return await conn.fetchval(
                "SELECT commitment FROM audit_leaf WHERE tenant = $1 AND index = $2", tenant, index
            )
