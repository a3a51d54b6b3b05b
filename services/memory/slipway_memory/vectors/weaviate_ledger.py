"""What the database knows of an index outside it: which version is in which collection, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipway_memory.embedding import Vector
from slipway_memory.ingest_topic import send_for_indexing
from slipway_memory.transactions import Database, row_values
from slipway_memory.vectors.index import IndexingJob, PendingChunk
from slipway_memory.vectors.lease import count_indexed, renew_lease

_ABOUT = """
SELECT v.version_id, v.tenant, d.collection_id, v.readers, v.metadata, v.chunk_count, v.description_revision
FROM document_version v JOIN document d USING (document_id) WHERE v.version_id = $1
"""

# Live versions that a collection lacks, or has with an old access list or old labels. Collections of another name than
# $1 are left alone: they are of a setting before, or of the Weaviate before a restore.
_LACKING = """
FROM document d
JOIN document_version v ON v.version_id = d.live_version
JOIN collection c ON c.collection_id = d.collection_id
JOIN vector_home h ON h.dimensions = c.dimensions AND h.alias = $1 || c.dimensions
LEFT JOIN vector_version w ON w.home = h.home AND w.version_id = v.version_id
WHERE (w.version_id IS NULL OR w.stored < v.chunk_count OR w.revision < v.description_revision)
"""

_SEND_LACKING = f"""
UPDATE document_version SET indexer = NULL, indexer_until = now() + make_interval(secs => $2)
WHERE version_id IN (
    SELECT v.version_id {_LACKING} AND coalesce(v.indexer_until, '-infinity') < now()
    LIMIT $3 FOR UPDATE OF v SKIP LOCKED
) RETURNING version_id, tenant
"""  # noqa: S608 - of constants


@dataclass(frozen=True, slots=True)
class IndexedVersion:
    """A version as its objects describe it."""

    version_id: str
    tenant: str
    collection_id: str
    readers: tuple[str, ...]
    metadata: Mapping[str, str]
    chunk_count: int
    description_revision: int


@dataclass(frozen=True, slots=True)
class Held:
    """How many chunks of a version a collection should hold."""

    home: str
    tenant: str
    version_id: str
    chunk_count: int


class IndexLedger:
    """Rows of `vector_version`."""

    def __init__(self, database: Database, prefix: str, *, lease_seconds: float) -> None:
        """`prefix`: what the names of collections begin with."""
        self._database = database
        self._prefix = prefix
        self._lease = lease_seconds

    async def version(self, version_id: str) -> IndexedVersion | None:
        """The version; None when it is gone."""
        row = await self._database.pool.fetchrow(_ABOUT, version_id)
        if row is None:
            return None
        return IndexedVersion(**row_values(row, readers=tuple(row["readers"]), metadata=json.loads(row["metadata"])))

    async def dimensions(self) -> list[int]:
        """All sizes of vectors that collections have."""
        rows = await self._database.pool.fetch("SELECT DISTINCT dimensions FROM collection")
        return [row["dimensions"] for row in rows]

    async def begin(self, home: str, version: IndexedVersion) -> int:
        """How many chunks of the version are in a collection. With an old access list or old labels: none counts."""
        stored = await self._database.pool.fetchval(
            "INSERT INTO vector_version AS w (home, version_id, tenant, revision)"
            " SELECT home, $2, $3, $4 FROM vector_home WHERE home = $1"
            " ON CONFLICT (home, version_id) DO UPDATE SET"
            " stored = CASE WHEN w.revision < $4 THEN 0 ELSE w.stored END, revision = greatest(w.revision, $4)"
            " RETURNING stored",
            *(home, version.version_id, version.tenant, version.description_revision),
        )
        return int(stored or 0)

    async def chunks(self, version_id: str, start: int, limit: int) -> list[PendingChunk]:
        """The chunks from number `start`."""
        rows = await self._database.pool.fetch(
            "SELECT chunk_id, ordinal, context, text FROM chunk WHERE version_id = $1 AND ordinal >= $2"
            " ORDER BY ordinal LIMIT $3",
            *(version_id, start, limit),
        )
        return [PendingChunk(**row_values(row)) for row in rows]

    async def own_vectors(self, version_id: str, chunk_ids: Sequence[int], dimensions: int) -> dict[int, Vector]:
        """Vectors by chunk that the database holds from the time when it was the index."""
        rows = await self._database.pool.fetch(
            "SELECT chunk_id, embedding::text AS embedding FROM chunk_embedding"
            " WHERE version_id = $1 AND chunk_id = ANY($2::bigint[]) AND dimensions = $3",
            *(version_id, list(chunk_ids), dimensions),
        )
        return {row["chunk_id"]: json.loads(row["embedding"]) for row in rows}

    async def stored(self, job: IndexingJob, home: str, count: int) -> bool:
        """Says that the first `count` chunks are in; renews the lease. False when it is lost."""
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            if not await renew_lease(connection, job.version_id, job.indexer, self._lease):
                # What was just written is to be deleted if the version is gone.
                await connection.execute(
                    "INSERT INTO vector_version (home, version_id, tenant, revision)"
                    " SELECT home, $2, $3, 0 FROM vector_home WHERE home = $1"
                    " ON CONFLICT (home, version_id) DO UPDATE SET gone_time = NULL",
                    *(home, job.version_id, job.tenant),
                )
                return False
            await connection.execute(
                "UPDATE vector_version SET stored = $3 WHERE home = $1 AND version_id = $2",
                *(home, job.version_id, count),
            )
            await count_indexed(connection, job.version_id, count)
        return True

    async def counted(self, home: str, version_ids: Sequence[str], *, lacking: Sequence[str]) -> None:
        """Says that the index was asked for versions, and which it does not hold wholly: those begin anew."""
        await self._database.pool.execute(
            "UPDATE vector_version SET check_time = now(),"
            " stored = CASE WHEN version_id = ANY($3::text[]) THEN 0 ELSE stored END"
            " WHERE home = $1 AND version_id = ANY($2::text[])",
            *(home, list(version_ids), list(lacking)),
        )

    async def to_count(self, seconds: float, limit: int) -> list[Held]:
        """Versions whose collection was not asked for them for so long, the longest first."""
        rows = await self._database.pool.fetch(
            "SELECT w.home, w.tenant, w.version_id, v.chunk_count FROM vector_version w"
            " JOIN vector_home h ON h.home = w.home AND h.alias = $1 || h.dimensions"
            " JOIN document_version v USING (version_id)"
            " WHERE w.check_time < now() - make_interval(secs => $2) AND w.stored = v.chunk_count AND v.state = 'READY'"
            " ORDER BY w.check_time LIMIT $3",
            *(self._prefix, seconds, limit),
        )
        return [Held(**row_values(row)) for row in rows]

    async def send_lacking(self, limit: int) -> tuple[int, int]:
        """Sends versions that a collection lacks to be indexed; how many were sent, and how many lack in all."""
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            backlog = await connection.fetchval(f"SELECT count(DISTINCT v.version_id) {_LACKING}", self._prefix)
            if not backlog:
                return 0, 0
            rows = await connection.fetch(_SEND_LACKING, self._prefix, self._lease, limit)
            for row in rows:
                await send_for_indexing(transaction, row["version_id"], row["tenant"])
        return len(rows), backlog

    async def gone(self, limit: int) -> list[Held]:
        """Versions of which something may be in a collection although they are deleted or FAILED."""
        rows = await self._database.pool.fetch(
            "SELECT w.home, w.tenant, w.version_id, 0 AS chunk_count FROM vector_version w"
            " JOIN vector_home h ON h.home = w.home AND h.alias = $1 || h.dimensions"
            " LEFT JOIN document_version v USING (version_id)"
            " WHERE (v.version_id IS NULL OR v.state = 'FAILED')"
            " AND (w.gone_time IS NULL OR w.gone_time < now() - make_interval(secs => $2)) LIMIT $3",
            *(self._prefix, self._lease, limit),
        )
        return [Held(**row_values(row)) for row in rows]

    async def deleted(self, home: str, version_ids: Sequence[str]) -> None:
        """Says that versions were deleted from a collection; those that were before are forgotten."""
        async with self._database.transaction() as transaction:
            await transaction.connection.execute(
                "DELETE FROM vector_version WHERE home = $1 AND version_id = ANY($2::text[]) AND gone_time IS NOT NULL",
                *(home, list(version_ids)),
            )
            await transaction.connection.execute(
                "UPDATE vector_version SET gone_time = now(), stored = 0"
                " WHERE home = $1 AND version_id = ANY($2::text[])",
                *(home, list(version_ids)),
            )

    async def tenant_is_empty(self, tenant: str) -> bool:
        """Whether the tenant has no document."""
        return not await self._database.pool.fetchval("SELECT EXISTS (SELECT FROM document WHERE tenant = $1)", tenant)

    async def tenant_dropped(self, home: str, tenant: str) -> None:
        """Says that a collection holds nothing of a tenant; what was put in the meantime is to be stored anew."""
        await self._database.pool.execute(
            "UPDATE vector_version SET stored = 0 WHERE home = $1 AND tenant = $2", home, tenant
        )
