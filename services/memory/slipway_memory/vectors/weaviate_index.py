"""The index in Weaviate: meaning and words there; text, descriptions and what is visible in the service's database."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from slipway_chassis.logs import get_logger

from slipway_memory import metrics
from slipway_memory.embedding import Vector
from slipway_memory.errors import VectorStoreUnavailable
from slipway_memory.knowledge import Collection, Passage
from slipway_memory.transactions import Database, row_values
from slipway_memory.vectors.index import IndexingJob, PendingChunk, PendingChunks
from slipway_memory.vectors.url import WeaviateAddress
from slipway_memory.vectors.weaviate_connection import WeaviateConnection
from slipway_memory.vectors.weaviate_homes import WeaviateHomes
from slipway_memory.vectors.weaviate_ledger import Held, IndexedVersion, IndexLedger
from slipway_memory.vectors.weaviate_objects import CollectionUnknown, WeaviateObjects
from slipway_memory.vectors.weaviate_schema import LAYOUT

# Versions that are not visible (any more, or yet) take places among the best: more are asked for, and again if need be.
_SPARE, _MOST = 10, 5000
_AT_ONCE = 100
# Every version is counted in Weaviate once in this many seconds: so a restored or damaged one is noticed.
_COUNT_EVERY, _COUNTS_AT_ONCE = 3600.0, 500

_HAS_DOCUMENTS = "SELECT EXISTS (SELECT 1 FROM document WHERE collection_id = $1 AND live_version IS NOT NULL)"
# What was found, as the caller may see it now: a copy of an access list in the index may be older than the real one.
_PASSAGES = """
SELECT v.version_id || '.' || c.ordinal AS passage_id, d.name AS document, v.title, c.headings, c.page, c.text,
       found.score, c.start_offset, c.end_offset, v.digest AS document_digest
FROM unnest($1::text[], $2::int[], $3::float8[]) AS found (version_id, ordinal, score)
JOIN chunk c ON c.version_id = found.version_id AND c.ordinal = found.ordinal
JOIN document_version v ON v.version_id = found.version_id
JOIN document d ON d.live_version = v.version_id
WHERE d.collection_id = $4 AND (v.readers = '{}' OR v.readers && $5::text[]) AND v.metadata @> $6::jsonb
ORDER BY found.score DESC, d.name, c.ordinal
LIMIT $7
"""

_log = get_logger(__name__)


class WeaviatePassageIndex:
    """PassageIndex over Weaviate."""

    def __init__(
        self, database: Database, address: WeaviateAddress, *, lease_seconds: float, layout: int = LAYOUT
    ) -> None:
        self._database = database
        self.connection = WeaviateConnection(address)
        self._objects = WeaviateObjects(self.connection)
        self._ledger = IndexLedger(database, address.collection, lease_seconds=lease_seconds)
        self.homes = WeaviateHomes(database, self.connection, address.collection, layout=layout)

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
        asked = limit + _SPARE
        while True:
            try:
                found = await self._objects.search(
                    self.homes.alias(collection.dimensions),
                    collection.tenant,
                    collection.collection_id,
                    readers=readers,
                    metadata=metadata,
                    text=text,
                    vector=vector,
                    alpha=alpha,
                    limit=asked,
                )
            except CollectionUnknown as error:
                if await self._database.pool.fetchval(_HAS_DOCUMENTS, collection.collection_id):
                    raise VectorStoreUnavailable("Weaviate does not have the passages yet", retry_after=1) from error
                return []
            passages = await self._passages(collection, found, readers, metadata, limit) if found else []
            if len(passages) == limit or len(found) < asked or asked >= _MOST:
                return passages
            asked = min(8 * asked, _MOST)

    async def pending(self, job: IndexingJob, limit: int) -> PendingChunks | None:
        """See PassageIndex. Before it says that there is nothing, Weaviate is asked how much it has."""
        version = await self._ledger.version(job.version_id)
        if version is None:
            return None
        homes = await self.homes.ensure(job.dimensions)
        for home in homes.names:
            stored = await self._ledger.begin(home, version)
            if stored < version.chunk_count:
                chunks = await self._ledger.chunks(job.version_id, stored, limit)
                known = await self._known_vectors(job, version, home, homes.names, chunks)
                return PendingChunks(home, [replace(chunk, vector=known.get(chunk.chunk_id)) for chunk in chunks])
        for home in homes.names:
            held = Held(home, version.tenant, version.version_id, version.chunk_count)
            if await self._count([held]):
                raise VectorStoreUnavailable("Weaviate lost passages that it had taken", retry_after=1)
        return None

    async def add(self, job: IndexingJob, pending: PendingChunks, vectors: Sequence[Vector]) -> bool:
        """See PassageIndex."""
        version = await self._ledger.version(job.version_id)
        if version is None:
            return False
        try:
            await self._objects.put(pending.home, version, pending.chunks, vectors)
        except VectorStoreUnavailable:
            self.homes.forget()
            raise
        return await self._ledger.stored(job, pending.home, pending.chunks[-1].ordinal + 1)

    async def tend(self) -> int:
        """See PassageIndex."""
        dimensions = await self._ledger.dimensions()
        self.homes.forget()
        for size in dimensions:
            await self.homes.ensure(size)
        counted = await self._ledger.to_count(_COUNT_EVERY, _COUNTS_AT_ONCE)
        await self._count(counted)
        deleted = await self._delete_gone()
        sent, backlog = await self._ledger.send_lacking(_AT_ONCE)
        metrics.VECTOR_BACKLOG.set(backlog)
        for size in dimensions:
            await self.homes.promote(size)
        return sent + deleted

    async def check(self) -> None:
        """See PassageIndex."""
        await self.connection.check()

    async def check_owner(self) -> None:
        """See PassageIndex."""
        await self.homes.check_owner()

    async def close(self) -> None:
        """See PassageIndex."""
        await self.connection.close()

    async def _passages(
        self,
        collection: Collection,
        found: Sequence[tuple[str, int, float]],
        readers: Sequence[str],
        metadata: Mapping[str, str],
        limit: int,
    ) -> list[Passage]:
        versions, ordinals, scores = zip(*found, strict=True)
        rows = await self._database.pool.fetch(
            _PASSAGES,
            *(list(versions), list(ordinals), list(scores), collection.collection_id),
            *(list(readers), json.dumps(dict(metadata)), limit),
        )
        return [Passage(**row_values(row, headings=tuple(row["headings"]))) for row in rows]

    async def _known_vectors(
        self,
        job: IndexingJob,
        version: IndexedVersion,
        home: str,
        homes: Sequence[str],
        chunks: Sequence[PendingChunk],
    ) -> dict[int, Vector]:
        """Vectors that need not be made: of the database from before, or of Weaviate's collections."""
        known = await self._ledger.own_vectors(job.version_id, [chunk.chunk_id for chunk in chunks], job.dimensions)
        for source in homes if job.live or home != homes[0] else ():
            lacking = [chunk for chunk in chunks if chunk.chunk_id not in known]
            if lacking:
                known |= await self._objects.vectors(source, version, lacking)
        return known

    async def _count(self, versions: Sequence[Held]) -> int:
        """Asks Weaviate how much it has of versions; those that are not whole begin anew. Returns their number."""
        wrong = 0
        for (home, tenant), group in groupby(sorted(versions, key=_place), key=_place):
            expected = {held.version_id: held.chunk_count for held in group}
            counted = await self._objects.count(home, tenant, list(expected))
            lacking = [version for version, chunks in expected.items() if counted.get(version, 0) != chunks]
            await self._ledger.counted(home, list(expected), lacking=lacking)
            if lacking:
                _log.warning("vectors.incomplete", home=home, tenant=tenant, versions=len(lacking))
            wrong += len(lacking)
        return wrong

    async def _delete_gone(self) -> int:
        gone = await self._ledger.gone(_AT_ONCE)
        for (home, tenant), group in groupby(sorted(gone, key=_place), key=_place):
            versions = [held.version_id for held in group]
            if await self._ledger.tenant_is_empty(tenant):
                await self._objects.drop_tenant(home, tenant)
                await self._ledger.tenant_dropped(home, tenant)
            else:
                await self._objects.delete(home, tenant, versions)
            await self._ledger.deleted(home, versions)
        return len(gone)


def _place(held: Held) -> tuple[str, str]:
    return held.home, held.tenant
