"""Rows of `agent`, `agent_version` and `promotion`."""

import json
from typing import Any

from slipway_orchestrator.agents import Agent, AgentVersion
from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.suspension import Suspension, SuspensionScope

_AGENT = """
SELECT a.*, s.reason AS suspend_reason, s.suspended_by, s.create_time AS suspend_time
FROM agent a LEFT JOIN suspension s ON s.tenant = a.tenant AND s.agent = a.name
"""
_VERSION = """
SELECT v.*, coalesce(a.production_version = v.version, false) AS in_production
FROM agent_version v JOIN agent a ON a.tenant = v.tenant AND a.name = v.agent
"""
_WANTED = """
SELECT v.*, coalesce(a.production_version = v.version, false) AS in_production,
    coalesce(nullif($3, 0), a.production_version, 0) AS wanted
FROM agent a LEFT JOIN agent_version v
    ON v.tenant = a.tenant AND v.agent = a.name AND v.version = coalesce(nullif($3, 0), a.production_version)
WHERE a.tenant = $1 AND a.name = $2
"""


class AgentStore:
    """Agents in the database. Every method works in the connection's transaction."""

    async def put(
        self, conn: Any, tenant: str, definition: Definition, *, digest: str, source: str, text: str, author: str
    ) -> tuple[AgentVersion, bool]:
        """The version of this digest, and whether it is new."""
        name = definition.name
        await conn.execute(
            "INSERT INTO agent (tenant, name, description, labels, latest_version) VALUES ($1, $2, $3, $4, 0)"
            " ON CONFLICT (tenant, name) DO NOTHING",
            tenant,
            name,
            definition.description,
            json.dumps(dict(definition.labels)),
        )
        agent = await self.lock(conn, tenant, name)
        known = await conn.fetchrow(
            f"{_VERSION} WHERE v.tenant = $1 AND v.agent = $2 AND v.digest = $3", tenant, name, digest
        )
        if known is not None:
            return _version(known), False
        number = (agent.latest_version if agent else 0) + 1
        await conn.execute(
            "UPDATE agent SET latest_version = $3, description = $4, labels = $5, update_time = now()"
            " WHERE tenant = $1 AND name = $2",
            tenant,
            name,
            number,
            definition.description,
            json.dumps(dict(definition.labels)),
        )
        await conn.execute(
            "INSERT INTO agent_version (tenant, agent, version, digest, state, source, definition, author)"
            " VALUES ($1, $2, $3, $4, 'DRAFT', $5, $6, $7)",
            tenant,
            name,
            number,
            digest,
            source,
            text,
            author,
        )
        created = await self.version(conn, tenant, name, number)
        if created is None:
            raise LookupError("the version that was just inserted is not there")
        return created, True

    async def lock(self, conn: Any, tenant: str, name: str) -> Agent | None:
        """The agent, unchanged by others until the transaction ends."""
        row = await conn.fetchrow(f"{_AGENT} WHERE a.tenant = $1 AND a.name = $2 FOR UPDATE OF a", tenant, name)
        return None if row is None else _agent(row)

    async def get(self, conn: Any, tenant: str, name: str) -> Agent | None:
        """The agent; None when the tenant has none of that name."""
        row = await conn.fetchrow(f"{_AGENT} WHERE a.tenant = $1 AND a.name = $2", tenant, name)
        return None if row is None else _agent(row)

    async def page(self, conn: Any, tenant: str, after: str, limit: int) -> list[Agent]:
        """Agents by name."""
        rows = await conn.fetch(
            f"{_AGENT} WHERE a.tenant = $1 AND a.name > $2 ORDER BY a.name LIMIT $3", tenant, after, limit
        )
        return [_agent(row) for row in rows]

    async def version(self, conn: Any, tenant: str, name: str, number: int) -> AgentVersion | None:
        """The version; None when there is none."""
        row = await conn.fetchrow(
            f"{_VERSION} WHERE v.tenant = $1 AND v.agent = $2 AND v.version = $3", tenant, name, number
        )
        return None if row is None else _version(row)

    async def wanted(self, conn: Any, tenant: str, name: str, number: int) -> tuple[int, AgentVersion | None] | None:
        """Number of the version that a run takes (asked for 0: the one in production, 0 if none is), and that version.
        None when the tenant has no agent of that name."""
        row = await conn.fetchrow(_WANTED, tenant, name, number)
        if row is None:
            return None
        return row["wanted"], None if row["version"] is None else _version(row)

    async def versions(self, conn: Any, tenant: str, name: str, below: int, limit: int) -> list[AgentVersion]:
        """Versions with numbers below `below`, newest first."""
        rows = await conn.fetch(
            f"{_VERSION} WHERE v.tenant = $1 AND v.agent = $2 AND v.version < $3 ORDER BY v.version DESC LIMIT $4",
            tenant,
            name,
            below,
            limit,
        )
        return [_version(row) for row in rows]

    async def submit(self, conn: Any, version: AgentVersion, submitter: str) -> None:
        """To IN_REVIEW; an earlier review is void."""
        await self._change(conn, version, "IN_REVIEW", "submitter = $5, reviewer = '', review_message = ''", submitter)

    async def review(self, conn: Any, version: AgentVersion, state: str, reviewer: str, message: str) -> None:
        """To APPROVED or REJECTED."""
        await self._change(conn, version, state, "reviewer = $5, review_message = $6", reviewer, message)

    async def promote(self, conn: Any, tenant: str, name: str, number: int, promoter: str) -> None:
        """Runs use this version from now on."""
        await conn.execute(
            "INSERT INTO promotion (tenant, agent, version, promoter) VALUES ($1, $2, $3, $4)",
            tenant,
            name,
            number,
            promoter,
        )
        await self._produce(conn, tenant, name, number)

    async def roll_back(self, conn: Any, tenant: str, name: str) -> int | None:
        """Take the last promotion back: the version before it, or None when there was none."""
        rows = await conn.fetch(
            "SELECT id, version FROM promotion WHERE tenant = $1 AND agent = $2 AND NOT taken_back"
            " ORDER BY id DESC LIMIT 2",
            tenant,
            name,
        )
        if len(rows) < 2:
            return None
        await conn.execute("UPDATE promotion SET taken_back = true WHERE id = $1", rows[0]["id"])
        await self._produce(conn, tenant, name, rows[1]["version"])
        return rows[1]["version"]

    async def _produce(self, conn: Any, tenant: str, name: str, number: int) -> None:
        await conn.execute(
            "UPDATE agent SET production_version = $3, update_time = now() WHERE tenant = $1 AND name = $2",
            tenant,
            name,
            number,
        )

    async def _change(self, conn: Any, version: AgentVersion, state: str, more: str, *values: str) -> None:
        await conn.execute(
            f"UPDATE agent_version SET state = $4, update_time = now(), {more}"  # noqa: S608 - `more` is a constant
            " WHERE tenant = $1 AND agent = $2 AND version = $3",
            version.tenant,
            version.agent,
            version.version,
            state,
            *values,
        )


def _agent(row: Any) -> Agent:
    suspension = None
    if row["suspend_time"] is not None:
        scope = SuspensionScope(row["tenant"], row["name"])
        suspension = Suspension(scope, row["suspend_reason"], row["suspended_by"], row["suspend_time"])
    return Agent(
        tenant=row["tenant"],
        name=row["name"],
        description=row["description"],
        labels=json.loads(row["labels"]),
        latest_version=row["latest_version"],
        production_version=row["production_version"] or 0,
        create_time=row["create_time"],
        update_time=row["update_time"],
        suspension=suspension,
    )


def _version(row: Any) -> AgentVersion:
    return AgentVersion(
        tenant=row["tenant"],
        agent=row["agent"],
        version=row["version"],
        digest=row["digest"],
        state=row["state"],
        source=row["source"],
        definition=row["definition"],
        author=row["author"],
        submitter=row["submitter"],
        reviewer=row["reviewer"],
        review_message=row["review_message"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        in_production=row["in_production"],
    )
