"""MCP servers in PostgreSQL."""

import json
from dataclasses import dataclass
from typing import Any

from slipway_tools.mcp.connection import Connection, McpServer, from_content

_SELECT = "SELECT name, connection, proposer, create_time, update_time FROM mcp_server WHERE tenant = $1"
_PUT = """
WITH previous AS (SELECT digest FROM mcp_server WHERE tenant = $1 AND name = $2)
INSERT INTO mcp_server AS s (tenant, name, connection, digest, proposer) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant, name) DO UPDATE SET connection = excluded.connection, digest = excluded.digest,
    proposer = CASE WHEN s.digest = excluded.digest THEN s.proposer ELSE excluded.proposer END,
    update_time = CASE WHEN s.digest = excluded.digest THEN s.update_time ELSE now() END
RETURNING name, connection, proposer, create_time, update_time, (SELECT digest FROM previous) AS previous
"""


@dataclass(frozen=True)
class Put:
    """A server as it is now, and the digest of its connection before (None: it is new)."""

    server: McpServer
    previous: str | None


async def lock_server(conn: Any, tenant: str, name: str) -> None:
    """Let nobody else change that server or approve tools of it before the transaction ends."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/mcp/' || $2, 0))", tenant, name)


async def put_server(conn: Any, tenant: str, name: str, connection: Connection, proposer: str) -> Put:
    """Connect a server, or change its connection. It is locked (`lock_server`)."""
    content = json.dumps(connection.content(), ensure_ascii=False)
    row = await conn.fetchrow(_PUT, tenant, name, content, connection.digest, proposer)
    return Put(_server(row), row["previous"])


async def get_server(conn: Any, tenant: str, name: str) -> McpServer | None:
    """The tenant's server of that name."""
    row = await conn.fetchrow(f"{_SELECT} AND name = $2", tenant, name)
    return _server(row) if row else None


async def list_servers(conn: Any, tenant: str, after: str, limit: int) -> list[McpServer]:
    """Servers of the tenant whose names come after `after`, by name in byte order."""
    query = f'{_SELECT} AND name COLLATE "C" > $2 ORDER BY name COLLATE "C" LIMIT $3'
    return [_server(row) for row in await conn.fetch(query, tenant, after, limit)]


async def delete_server(conn: Any, tenant: str, name: str) -> None:
    """Remove a server."""
    await conn.execute("DELETE FROM mcp_server WHERE tenant = $1 AND name = $2", tenant, name)


def _server(row: Any) -> McpServer:
    connection = from_content(json.loads(row["connection"]))
    return McpServer(row["name"], connection, row["proposer"], row["create_time"], row["update_time"])
