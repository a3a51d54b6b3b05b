"""The state of indexing in Postgres: who embeds which version, how far it is, and the switch when it is done."""

from __future__ import annotations

from slipway_memory.ingest_topic import send_for_indexing
from slipway_memory.transactions import Database, row_values
from slipway_memory.vectors.index import IndexingJob


class IndexingStore:
    """Leases make sure that one indexer at a time embeds a version; every write checks the lease again.

    The bus redelivers as well; the lease keeps a second delivery from doing the same work, and the sweeper, which sends
    what has no indexer any more, does not depend on the broker's memory.
    """

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease = lease_seconds

    async def claim(self, version_id: str, indexer: str) -> IndexingJob | None:
        """Takes a version for `indexer`; None when it is gone, superseded, or another indexer has it."""
        row = await self._database.pool.fetchrow(
            "UPDATE document_version v SET indexer = $2, indexer_until = now() + make_interval(secs => $3)"
            " FROM document d, collection c"
            " WHERE v.version_id = $1 AND (v.state = 'INDEXING' AND d.latest_version = v.version_id"
            " OR v.state = 'READY' AND d.live_version = v.version_id)"
            " AND c.collection_id = d.collection_id"
            " AND (v.indexer IS NULL OR v.indexer_until < now())"
            " RETURNING v.version_id, v.indexer, v.tenant, c.embedding_model, c.dimensions, c.regions,"
            " v.state = 'READY' AS live,"
            " extract(epoch FROM now() - v.create_time)::float8 AS age, v.failures",
            *(version_id, indexer, self._lease),
        )
        return IndexingJob(**row_values(row, regions=tuple(row["regions"]))) if row else None

    async def switch(self, version_id: str, indexer: str) -> bool:
        """Makes a wholly embedded version the live one and drops the old, in one step; False when the lease is lost."""
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            document_id = await connection.fetchval(
                "SELECT document_id FROM document WHERE latest_version = $1 FOR UPDATE", version_id
            )
            ready = document_id and await connection.fetchval(
                "UPDATE document_version SET state = 'READY', error = '', indexer = NULL, indexer_until = NULL,"
                " update_time = now() WHERE version_id = $1 AND state = 'INDEXING' AND indexer = $2"
                " AND indexed_chunk_count = chunk_count RETURNING true",
                *(version_id, indexer),
            )
            if not ready:
                return False
            await connection.execute(
                "UPDATE document SET live_version = $2 WHERE document_id = $1", document_id, version_id
            )
            rows = await connection.fetch(
                "DELETE FROM document_version WHERE document_id = $1 AND version_id <> $2 RETURNING object_key",
                *(document_id, version_id),
            )
            for row in rows:
                await transaction.drop_object(row["object_key"])
        return True

    async def postpone(self, version_id: str, indexer: str, seconds: float) -> None:
        """Gives a version back; the sweeper sends it again after `seconds`."""
        await self._database.pool.execute(
            "UPDATE document_version SET indexer = NULL, indexer_until = now() + make_interval(secs => $3),"
            " failures = failures + 1 WHERE version_id = $1 AND indexer = $2",
            *(version_id, indexer, seconds),
        )

    async def release(self, version_id: str, indexer: str) -> None:
        """Gives a version back for anybody to take at once."""
        await self._database.pool.execute(
            "UPDATE document_version SET indexer = NULL, indexer_until = now() WHERE version_id = $1 AND indexer = $2",
            version_id,
            indexer,
        )

    async def fail(self, version_id: str, indexer: str, error: str) -> None:
        """Ends indexing with an error. What was live stays so; the failed version's chunks go."""
        async with self._database.transaction() as transaction:
            failed = await transaction.connection.fetchval(
                "UPDATE document_version SET state = 'FAILED', error = $3, indexer = NULL, indexer_until = NULL,"
                " update_time = now() WHERE version_id = $1 AND state = 'INDEXING' AND indexer = $2 RETURNING true",
                *(version_id, indexer, error),
            )
            if failed:
                await transaction.connection.execute("DELETE FROM chunk WHERE version_id = $1", version_id)

    async def stuck(self, limit: int = 100) -> int:
        """Sends every version again whose indexer gave no sign for the time of a lease; returns their number."""
        async with self._database.transaction() as transaction:
            rows = await transaction.connection.fetch(
                "UPDATE document_version SET indexer = NULL, indexer_until = now() + make_interval(secs => $1)"
                " WHERE version_id IN (SELECT version_id FROM document_version WHERE state = 'INDEXING'"
                " AND coalesce(indexer_until, create_time + make_interval(secs => $1)) < now()"
                " ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING version_id, tenant",
                *(self._lease, limit),
            )
            for row in rows:
                await send_for_indexing(transaction, row["version_id"], row["tenant"])
        return len(rows)
