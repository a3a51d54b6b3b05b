"""The index in the service's own database: pgvector and full text in one statement."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from slipway_memory.embedding import Vector
from slipway_memory.ingest_topic import send_for_indexing
from slipway_memory.knowledge import Collection, Passage
from slipway_memory.store import vector_text
from slipway_memory.transactions import Database, row_values
from slipway_memory.vectors.index import IndexingJob, PendingChunk, PendingChunks
from slipway_memory.vectors.lease import count_indexed, renew_lease

# Each branch hands this many times the limit to the fusion, but never fewer than the second figure.
_CANDIDATES_FACTOR, _CANDIDATES_LEAST = 4, 100
# Sizes with a partition and an index of their own (migrations/0001_knowledge.sql).
_HOME = "postgres"
_SENT_AT_ONCE, _LOOK_SECONDS = 100, 600.0
_INDEXED_DIMENSIONS = (384, 768, 1024, 1536)


@cache
def _statement(dimensions: int) -> str:
    text = files("slipway_memory").joinpath("search_query.sql").read_text()
    vectors = f"chunk_embedding_{dimensions if dimensions in _INDEXED_DIMENSIONS else 'other'}"
    return text.format(vectors=vectors, dimensions=int(dimensions))


class PostgresPassageIndex:
    """PassageIndex over the tables of `store.py`."""

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self._database = database
        self._lease = lease_seconds
        self._look_at = 0.0

    async def search(
        self,
        collection: Collection,
        *,
        readers: Sequence[str],
        metadata: Mapping[str, str],
        text: str,
        vector: Vector,
        alpha: float,
        limit: int,
    ) -> list[Passage]:
        """See PassageIndex."""
        candidates = max(_CANDIDATES_FACTOR * limit, _CANDIDATES_LEAST)
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            # Without iterative scans the index hands out ef_search rows, and a filter may leave none of them. Without
            # sorts the planner takes the order from the index: it knows no statistics of distances.
            await connection.execute(
                f"SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = {2 * candidates};"
                " SET LOCAL hnsw.max_scan_tuples = 200000; SET LOCAL enable_sort = off"
            )
            rows = await connection.fetch(
                _statement(len(vector)),
                *(collection.collection_id, list(readers), json.dumps(dict(metadata)), vector_text(vector), text),
                *(alpha, limit, candidates),
            )
        return [Passage(**row_values(row, headings=tuple(row["headings"]))) for row in rows]

    async def pending(self, job: IndexingJob, limit: int) -> PendingChunks | None:
        """See PassageIndex."""
        rows = await self._database.pool.fetch(
            "SELECT c.chunk_id, c.ordinal, c.context, c.text FROM chunk c WHERE c.version_id = $1"
            " AND NOT EXISTS (SELECT FROM chunk_embedding e WHERE e.chunk_id = c.chunk_id) ORDER BY c.ordinal LIMIT $2",
            *(job.version_id, limit),
        )
        return PendingChunks(_HOME, [PendingChunk(**row_values(row)) for row in rows]) if rows else None

    async def add(self, job: IndexingJob, pending: PendingChunks, vectors: Sequence[Vector]) -> bool:
        """See PassageIndex. Nothing is stored when the lease is lost."""
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            if not await renew_lease(connection, job.version_id, job.indexer, self._lease):
                return False
            await connection.execute(
                "INSERT INTO chunk_embedding (chunk_id, dimensions, version_id, embedding)"
                " SELECT id, vector_dims(vector::vector), $1, vector::vector"
                " FROM unnest($2::bigint[], $3::text[]) AS given (id, vector)"
                " ON CONFLICT (chunk_id, dimensions) DO NOTHING",
                job.version_id,
                [chunk.chunk_id for chunk in pending.chunks],
                [vector_text(vector) for vector in vectors],
            )
            stored = await connection.fetchval(
                "SELECT count(*) FROM chunk_embedding WHERE version_id = $1", job.version_id
            )
            await count_indexed(connection, job.version_id, stored)
        return True

    async def tend(self) -> int:
        """See PassageIndex. Versions without vectors are those that another index held before."""
        now = time.monotonic()
        if now < self._look_at:
            return 0
        async with self._database.transaction() as transaction:
            rows = await transaction.connection.fetch(
                "UPDATE document_version SET indexer = NULL, indexer_until = now() + make_interval(secs => $1)"
                " WHERE version_id IN (SELECT v.version_id FROM document d"
                " JOIN document_version v ON v.version_id = d.live_version"
                " WHERE coalesce(v.indexer_until, '-infinity') < now() AND v.chunk_count >"
                " (SELECT count(*) FROM chunk_embedding e WHERE e.version_id = v.version_id)"
                " LIMIT $2 FOR UPDATE OF v SKIP LOCKED) RETURNING version_id, tenant",
                *(self._lease, _SENT_AT_ONCE),
            )
            for row in rows:
                await send_for_indexing(transaction, row["version_id"], row["tenant"])
        # Looking at every document is for after a change of the setting: seldom when there is nothing to do.
        self._look_at = now + (0 if rows else _LOOK_SECONDS)
        return len(rows)

    async def check(self) -> None:
        """The database has a check of its own."""

    async def check_owner(self) -> None:
        """The database is the service's own."""

    async def close(self) -> None:
        """The database's pool is closed by its owner."""
