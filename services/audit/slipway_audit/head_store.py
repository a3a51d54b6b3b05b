"""Signed heads in PostgreSQL: every head that was ever signed stays, and the next must continue it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import asyncpg
from slipway_chassis.postgres import transaction
from slipway_evidence.merkle import Frontier, Node

from slipway_audit.tree_store import read_nodes, read_root


@dataclass(frozen=True, slots=True)
class LogState:
    """A tenant's log as its row tells. `previous` is the extension line of a log that continues another."""

    generation: int
    previous: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A checkpoint that was signed."""

    generation: int
    size: int
    root: bytes
    note: str


class Signing:
    """One log, locked for the signing of a head."""

    def __init__(self, conn: Any, tenant: str, log: LogState, last: SignedHead | None) -> None:
        self._conn = conn
        self._tenant = tenant
        self.log = log
        self.last = last

    async def root(self, size: int) -> bytes:
        """Root of the first `size` leaves, computed from what is stored."""
        return await read_root(self._conn, self._tenant, size)

    async def nodes(self, size: int, nodes: Sequence[Node]) -> dict[Node, bytes]:
        """Hashes of complete subtrees of the first `size` leaves."""
        return await read_nodes(self._conn, self._tenant, size, nodes)

    async def keep(self, head: SignedHead) -> None:
        """Store a head."""
        await self._conn.execute(
            "INSERT INTO audit_checkpoint (tenant, generation, size, root, note) VALUES ($1, $2, $3, $4, $5)",
            self._tenant,
            head.generation,
            head.size,
            head.root,
            head.note,
        )

    async def begin_generation(self, previous: str) -> None:
        """Make the log a new one that names the head of the one before; nothing of it is signed yet."""
        await self._conn.execute(
            "UPDATE audit_log SET generation = generation + 1, previous = $2 WHERE tenant = $1", self._tenant, previous
        )
        self.log = replace(self.log, generation=self.log.generation + 1, previous=previous)
        self.last = None


class HeadStore:
    """The signed heads of all logs."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def tenants(self) -> list[str]:
        """Whose logs there are."""
        return [row["tenant"] for row in await self._pool.fetch("SELECT tenant FROM audit_log ORDER BY tenant")]

    @asynccontextmanager
    async def signing(self, tenant: str) -> AsyncGenerator[Signing | None]:
        """A log, locked until the block ends and what it kept is committed; None when the tenant has no log."""
        async with transaction(self._pool) as conn:
            row = await conn.fetchrow(
                "SELECT generation, previous, size, frontier FROM audit_log WHERE tenant = $1 FOR UPDATE", tenant
            )
            if row is None:
                yield None
                return
            root = Frontier.unpack(row["size"], row["frontier"]).root()
            log = LogState(row["generation"], row["previous"], row["size"], root)
            yield Signing(conn, tenant, log, await _last(conn, tenant, log.generation))

    async def last(self, tenant: str) -> SignedHead | None:
        """The newest head of the tenant's present log."""
        async with transaction(self._pool) as conn:
            generation = await conn.fetchval("SELECT generation FROM audit_log WHERE tenant = $1", tenant)
            return None if generation is None else await _last(conn, tenant, generation)

    async def unsigned(self) -> list[str]:
        """Tenants whose log has leaves that no head covers."""
        async with transaction(self._pool) as conn:
            rows = await conn.fetch(
                "SELECT tenant FROM audit_log AS log WHERE size > coalesce((SELECT max(head.size) FROM"
                " audit_checkpoint AS head WHERE head.tenant = log.tenant AND head.generation = log.generation), 0)"
            )
        return [row["tenant"] for row in rows]


async def _last(conn: Any, tenant: str, generation: int) -> SignedHead | None:
    row = await conn.fetchrow(
        "SELECT size, root, note FROM audit_checkpoint WHERE tenant = $1 AND generation = $2"
        " ORDER BY size DESC LIMIT 1",
        tenant,
        generation,
    )
    return None if row is None else SignedHead(generation, row["size"], row["root"], row["note"])
