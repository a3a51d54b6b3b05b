"""Rows of `suspension`, and the runs that a kill switch reaches."""

from collections.abc import Sequence
from typing import Any

from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.runs import identity_of
from slipway_orchestrator.suspension import Suspension, SuspensionScope

_COVERS = "tenant IN ($1, '') AND agent IN ($2, '')"


class SuspensionStore:
    """Kill switches in the database. Every method works in the connection's transaction."""

    async def pull(self, conn: Any, scope: SuspensionScope, reason: str, by: str) -> bool:
        """Suspend a scope. False when it was suspended already: who, when and why stay as they are."""
        done = await conn.fetchval(
            "INSERT INTO suspension (tenant, agent, reason, suspended_by) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT DO NOTHING RETURNING true",
            scope.tenant,
            scope.agent,
            reason,
            by,
        )
        return bool(done)

    async def lift(self, conn: Any, scope: SuspensionScope) -> bool:
        """End a suspension. False when there was none."""
        done = await conn.fetchval(
            "DELETE FROM suspension WHERE tenant = $1 AND agent = $2 RETURNING true", scope.tenant, scope.agent
        )
        return bool(done)

    async def of(self, conn: Any, tenant: str, agent: str) -> Suspension | None:
        """What stops an agent of a tenant now: the narrowest, or None. With no agent, what stops the whole tenant."""
        row = await conn.fetchrow(
            f"SELECT * FROM suspension WHERE {_COVERS} ORDER BY agent DESC, tenant DESC LIMIT 1",  # noqa: S608 - a constant
            tenant,
            agent,
        )
        return None if row is None else _suspension(row)

    async def of_tenant(self, conn: Any, tenant: str) -> list[Suspension]:
        """The tenant's and everybody's."""
        rows = await conn.fetch(
            "SELECT * FROM suspension WHERE tenant IN ($1, '') AND agent = '' ORDER BY tenant DESC", tenant
        )
        return [_suspension(row) for row in rows]

    async def all(self, conn: Any) -> list[Suspension]:
        """Every suspension there is."""
        return [_suspension(row) for row in await conn.fetch("SELECT * FROM suspension")]

    async def reached(
        self, conn: Any, scope: SuspensionScope, states: Sequence[str], after: str, limit: int
    ) -> list[RunIdentity]:
        """Unfinished runs of a scope in these states with ids above `after`, locked, in order."""
        rows = await conn.fetch(
            "SELECT * FROM run WHERE end_time IS NULL AND ($1 = '' OR tenant = $1) AND ($2 = '' OR agent = $2)"
            " AND state = ANY($3) AND run_id > $4 ORDER BY run_id LIMIT $5 FOR NO KEY UPDATE",
            scope.tenant,
            scope.agent,
            list(states),
            after,
            limit,
        )
        return [identity_of(row) for row in rows]


def _suspension(row: Any) -> Suspension:
    return Suspension(
        scope=SuspensionScope(row["tenant"], row["agent"]),
        reason=row["reason"],
        suspended_by=row["suspended_by"],
        create_time=row["create_time"],
    )
