"""Declared tools in PostgreSQL."""

import json
from dataclasses import dataclass
from typing import Any

from slipway_tools.tool import Declaration, Tool, from_content

_SELECT = "SELECT declaration, create_time, update_time FROM tool WHERE tenant = $1"

# `previous` reads what was there before the statement: data-modifying parts of one statement don't see each other.
_PUT = """
WITH previous AS (SELECT digest FROM tool WHERE tenant = $1 AND name = $2)
INSERT INTO tool AS t (tenant, name, declaration, digest) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, name) DO UPDATE SET declaration = excluded.declaration, digest = excluded.digest,
    update_time = CASE WHEN t.digest = excluded.digest THEN t.update_time ELSE now() END
RETURNING declaration, create_time, update_time, (SELECT digest FROM previous) AS previous
"""


@dataclass(frozen=True)
class Put:
    """A tool as it is now, and the digest of the declaration before (None: it is new)."""

    tool: Tool
    previous: str | None


async def put_tool(conn: Any, tenant: str, declaration: Declaration) -> Put:
    """Declare a tool, or declare it anew."""
    # Two first declarations at once would both see no previous one.
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))", tenant, declaration.name)
    content = json.dumps(declaration.content(), ensure_ascii=False)
    row = await conn.fetchrow(_PUT, tenant, declaration.name, content, declaration.digest)
    return Put(_tool(row), row["previous"])


async def get_tool(conn: Any, tenant: str, name: str) -> Tool | None:
    """The tenant's tool of that name."""
    row = await conn.fetchrow(f"{_SELECT} AND name = $2", tenant, name)
    return _tool(row) if row else None


async def list_tools(conn: Any, tenant: str, after: str, limit: int) -> list[Tool]:
    """Tools of the tenant whose names come after `after`, by name in byte order."""
    query = f'{_SELECT} AND name COLLATE "C" > $2 ORDER BY name COLLATE "C" LIMIT $3'
    return [_tool(row) for row in await conn.fetch(query, tenant, after, limit)]


def _tool(row: Any) -> Tool:
    return Tool(from_content(json.loads(row["declaration"])), row["create_time"], row["update_time"])
