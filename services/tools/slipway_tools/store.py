"""Declared tools and their versions in PostgreSQL."""

import json
from dataclasses import dataclass
from typing import Any

from slipway_tools.tool import Declaration, Tool, from_content

_SELECT = "SELECT declaration, create_time, update_time, version, quarantine FROM tool WHERE tenant = $1"

# `previous` reads what was there before the statement: data-modifying parts of one statement don't see each other.
# Tools that come back after they were removed go on counting, so that a version means one declaration for ever.
_PUT = """
WITH previous AS (SELECT digest, declaration FROM tool WHERE tenant = $1 AND name = $2),
     last AS (SELECT coalesce(max(version), 0) AS version FROM tool_version WHERE tenant = $1 AND name = $2)
INSERT INTO tool AS t (tenant, name, declaration, digest, version)
VALUES ($1, $2, $3, $4, (SELECT version + 1 FROM last))
ON CONFLICT (tenant, name) DO UPDATE SET declaration = excluded.declaration, digest = excluded.digest, quarantine = '',
    version = CASE WHEN t.digest = excluded.digest THEN t.version ELSE excluded.version END,
    update_time = CASE WHEN t.digest = excluded.digest THEN t.update_time ELSE now() END
RETURNING declaration, create_time, update_time, version, quarantine, (SELECT digest FROM previous) AS previous
"""
_KEEP_VERSION = """
INSERT INTO tool_version (tenant, name, version, declaration, digest) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""


@dataclass(frozen=True)
class Put:
    """A tool as it is now, and the digest of the declaration before (None: it is new)."""

    tool: Tool
    previous: str | None


async def lock_tool(conn: Any, tenant: str, name: str) -> None:
    """Let nobody else declare that tool before the transaction ends: two first declarations would see no previous."""
    await conn.execute("SELECT pg_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))", tenant, name)


async def put_tool(conn: Any, tenant: str, declaration: Declaration) -> Put:
    """Declare a tool, or declare it anew, and keep the version. It is locked (`lock_tool`)."""
    content = json.dumps(declaration.content(), ensure_ascii=False)
    row = await conn.fetchrow(_PUT, tenant, declaration.name, content, declaration.digest)
    await conn.execute(_KEEP_VERSION, tenant, declaration.name, row["version"], content, declaration.digest)
    return Put(_tool(row), row["previous"])


async def get_tool(conn: Any, tenant: str, name: str) -> Tool | None:
    """The tenant's tool of that name."""
    row = await conn.fetchrow(f"{_SELECT} AND name = $2", tenant, name)
    return _tool(row) if row else None


async def get_version(conn: Any, tenant: str, name: str, version: int) -> Tool | None:
    """One version of a tool; why it can't be called is the tool's, whatever the version."""
    row = await conn.fetchrow(
        "SELECT v.declaration, v.create_time, v.create_time AS update_time, v.version, t.quarantine"
        " FROM tool_version v JOIN tool t USING (tenant, name) WHERE tenant = $1 AND name = $2 AND v.version = $3",
        tenant,
        name,
        version,
    )
    return _tool(row) if row else None


async def list_versions(conn: Any, tenant: str, name: str, before: int, limit: int) -> list[Tool]:
    """Versions of a tool below `before`, newest first."""
    rows = await conn.fetch(
        "SELECT v.declaration, v.create_time, v.create_time AS update_time, v.version, t.quarantine"
        " FROM tool_version v JOIN tool t USING (tenant, name) WHERE tenant = $1 AND name = $2 AND v.version < $3"
        " ORDER BY v.version DESC LIMIT $4",
        tenant,
        name,
        before,
        limit,
    )
    return [_tool(row) for row in rows]


async def list_tools(conn: Any, tenant: str, after: str, limit: int) -> list[Tool]:
    """Tools of the tenant whose names come after `after`, by name in byte order."""
    query = f'{_SELECT} AND name COLLATE "C" > $2 ORDER BY name COLLATE "C" LIMIT $3'
    return [_tool(row) for row in await conn.fetch(query, tenant, after, limit)]


async def tools_of_server(conn: Any, tenant: str, server: str) -> list[Tool]:
    """What was approved of an MCP server's tools, by name."""
    rows = await conn.fetch(f"{_SELECT} AND starts_with(name, $2 || '.') ORDER BY name", tenant, server)
    return [tool for tool in map(_tool, rows) if tool.declaration.kind == "mcp"]


async def quarantine_tool(conn: Any, tenant: str, name: str, reason: str) -> bool:
    """Let nobody call an MCP tool until it is approved anew; True when it could be called before."""
    changed = await conn.execute(
        "UPDATE tool SET quarantine = $3 WHERE tenant = $1 AND name = $2 AND quarantine = ''", tenant, name, reason
    )
    return changed == "UPDATE 1"


async def delete_tool(conn: Any, tenant: str, name: str) -> None:
    """Remove a tool; its versions are kept."""
    await conn.execute("DELETE FROM tool WHERE tenant = $1 AND name = $2", tenant, name)


def _tool(row: Any) -> Tool:
    return Tool(
        from_content(json.loads(row["declaration"])),
        row["create_time"],
        row["update_time"],
        row["version"],
        row["quarantine"],
    )
