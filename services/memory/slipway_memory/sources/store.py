"""Data sources in Postgres."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter
from slipway_chassis.ids import new_id

from slipway_memory.sources.declaration import Source, SourceDeclaration
from slipway_memory.transactions import Database, Transaction

_DECLARATIONS = TypeAdapter(SourceDeclaration)
_SOURCE = "SELECT source_id, tenant, owner, version, declaration, create_time, update_time FROM source "


def _source(row: Any) -> Source:
    return Source(
        row["source_id"],
        row["tenant"],
        row["owner"],
        row["version"],
        _DECLARATIONS.validate_json(row["declaration"]),
        row["create_time"],
        row["update_time"],
    )


class SourceStore:
    """Reads and writes data sources; changes go through the transaction handed in."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def source(self, tenant: str, name: str) -> Source | None:
        """The tenant's data source of that name."""
        row = await self.database.pool.fetchrow(_SOURCE + "WHERE tenant = $1 AND name = $2", tenant, name)
        return _source(row) if row else None

    async def sources(self, tenant: str, after: str, limit: int) -> list[Source]:
        """The tenant's data sources by name, from the one after `after`."""
        rows = await self.database.pool.fetch(
            _SOURCE + "WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3", tenant, after, limit
        )
        return [_source(row) for row in rows]

    async def locked(self, transaction: Transaction, tenant: str, name: str) -> Source | None:
        """The data source as the transaction sees it; nobody else changes it until the transaction ends."""
        await transaction.connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"source/{tenant}/{name}"
        )
        row = await transaction.connection.fetchrow(_SOURCE + "WHERE tenant = $1 AND name = $2", tenant, name)
        return _source(row) if row else None

    async def write(self, transaction: Transaction, tenant: str, owner: str, declaration: SourceDeclaration) -> Source:
        """Stores a declaration as the newest version; a data source keeps its owner."""
        row = await transaction.connection.fetchrow(
            "INSERT INTO source (source_id, tenant, name, owner, version, declaration) VALUES ($1, $2, $3, $4, 1, $5)"
            " ON CONFLICT (tenant, name) DO UPDATE SET declaration = EXCLUDED.declaration,"
            " version = source.version + 1, update_time = now()"
            " RETURNING source_id, tenant, owner, version, declaration, create_time, update_time",
            *(new_id("src"), tenant, declaration.name, owner, _DECLARATIONS.dump_json(declaration).decode()),
        )
        return _source(row)

    async def delete(self, transaction: Transaction, source: Source) -> None:
        """Forgets a data source."""
        await transaction.connection.execute("DELETE FROM source WHERE source_id = $1", source.source_id)
