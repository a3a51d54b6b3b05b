"""Files' descriptions in Postgres; the bytes are in the object store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slipway_memory.transactions import Database, Transaction, row_values

_SELECT = """
SELECT file_id, tenant, owner, filename, content_type, size_bytes, digest, readers, object_key, create_time, expire_time
FROM file
"""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with an owner, until `expire_time`."""

    file_id: str
    tenant: str
    owner: str
    filename: str
    content_type: str
    size_bytes: int
    digest: str
    readers: tuple[str, ...]
    object_key: str
    create_time: datetime
    expire_time: datetime


def _file(row: Any) -> StoredFile:
    return StoredFile(**row_values(row, readers=tuple(row["readers"])))


class FileStore:
    """Reads and writes descriptions. Expired files are not there, swept or not."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def file(self, tenant: str, file_id: str) -> StoredFile | None:
        """A file of the tenant."""
        row = await self.database.pool.fetchrow(
            _SELECT + "WHERE tenant = $1 AND file_id = $2 AND expire_time > now()", tenant, file_id
        )
        return _file(row) if row else None

    async def used_bytes(self, transaction: Transaction, tenant: str) -> int:
        """Bytes of all files of a tenant; uploads of the tenant wait for each other until the transaction ends."""
        connection = transaction.connection
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('file quota ' || $1, 0))", tenant)
        return await connection.fetchval(
            "SELECT coalesce(sum(size_bytes), 0)::bigint FROM file WHERE tenant = $1 AND expire_time > now()", tenant
        )

    async def insert(
        self,
        transaction: Transaction,
        *,
        file_id: str,
        tenant: str,
        owner: str,
        filename: str,
        content_type: str,
        size_bytes: int,
        digest: str,
        readers: Sequence[str],
        object_key: str,
        ttl_seconds: float,
    ) -> StoredFile:
        """Stores a description."""
        row = await transaction.connection.fetchrow(
            "INSERT INTO file (file_id, tenant, owner, filename, content_type, size_bytes, digest, readers, object_key,"
            " expire_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10))"
            " RETURNING file_id, tenant, owner, filename, content_type, size_bytes, digest, readers, object_key,"
            " create_time, expire_time",
            *(file_id, tenant, owner, filename, content_type, size_bytes, digest, list(readers), object_key),
            ttl_seconds,
        )
        return _file(row)

    async def delete(self, transaction: Transaction, tenant: str, file_id: str) -> bool:
        """Deletes a file with its object; False when it is gone already."""
        row = await transaction.connection.fetchrow(
            "DELETE FROM file WHERE tenant = $1 AND file_id = $2 AND expire_time > now() RETURNING object_key",
            *(tenant, file_id),
        )
        if row is not None:
            await transaction.drop_object(row["object_key"])
        return row is not None

    async def expire(self, limit: int = 500) -> int:
        """Deletes files whose time has passed, with their objects; returns their number."""
        async with self.database.transaction() as transaction:
            rows = await transaction.connection.fetch(
                "DELETE FROM file WHERE file_id IN (SELECT file_id FROM file WHERE expire_time <= now()"
                " ORDER BY expire_time LIMIT $1 FOR UPDATE SKIP LOCKED) RETURNING object_key",
                limit,
            )
            for row in rows:
                await transaction.drop_object(row["object_key"])
        return len(rows)
