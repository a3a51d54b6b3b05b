"""Objects of passages in Weaviate: stored, counted, deleted, asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

import weaviate
from slipway_chassis.logs import get_logger
from weaviate.classes.aggregate import GroupByAggregate
from weaviate.classes.data import DataObject
from weaviate.classes.query import Filter, HybridFusion, MetadataQuery
from weaviate.collections.classes.types import WeaviateProperties
from weaviate.collections.collection.async_ import CollectionAsync
from weaviate.exceptions import WeaviateBaseError, WeaviateInsertManyAllFailedError

from slipway_memory import metrics
from slipway_memory.embedding import Vector
from slipway_memory.errors import VectorStoreUnavailable
from slipway_memory.vectors.index import PendingChunk
from slipway_memory.vectors.weaviate_connection import WeaviateConnection
from slipway_memory.vectors.weaviate_ledger import IndexedVersion
from slipway_memory.vectors.weaviate_schema import (
    WORDS,
    object_id,
    stored_labels,
    stored_readers,
    tenant_name,
    visible,
)

_SEARCH_SECONDS, _WRITE_SECONDS = 5.0, 30.0
# How often objects that were refused one by one are sent again, and the first pause in seconds.
_TRIES, _PAUSE = 3, 0.2
# Collections and tenants that were searched last.
_HANDLES = 1024

_log = get_logger(__name__)


class CollectionUnknown(Exception):
    """Weaviate has no such collection: none was made yet, or it is lost."""


class WeaviateObjects:
    """All methods raise VectorStoreUnavailable, VectorStoreRefused."""

    def __init__(self, connection: WeaviateConnection) -> None:
        self._connection = connection
        # Made anew for every search they cost a seventh of its processor time.
        self._searched = lru_cache(_HANDLES)(self._handle)

    async def put(
        self, home: str, version: IndexedVersion, chunks: Sequence[PendingChunk], vectors: Sequence[Vector]
    ) -> None:
        """Stores chunks; all, or an error. Objects that are refused alone are sent again alone, a few times."""
        waiting = [_data_object(version, chunk, vector) for chunk, vector in zip(chunks, vectors, strict=True)]
        for attempt in range(_TRIES):
            if attempt:
                await asyncio.sleep(_PAUSE * 2**attempt)
            async with self._connection.use("store", seconds=_WRITE_SECONDS) as client:
                errors = await _insert(client, home, version.tenant, waiting)
            if not errors:
                return
            metrics.VECTOR_OBJECTS_REFUSED.inc(len(errors))
            _log.warning(
                "vectors.objects_refused", home=home, count=len(errors), first=next(iter(errors.values()))[:300]
            )
            waiting = [waiting[position] for position in sorted(errors)]
        raise VectorStoreUnavailable(f"Weaviate did not take {len(waiting)} of {len(chunks)} passages", retry_after=2)

    async def vectors(self, home: str, version: IndexedVersion, chunks: Sequence[PendingChunk]) -> dict[int, Vector]:
        """Vectors by chunk, of those that the collection has."""
        wanted = {object_id(version.version_id, chunk.ordinal): chunk.chunk_id for chunk in chunks}
        async with self._connection.use("fetch", seconds=_WRITE_SECONDS) as client:
            try:
                answer = (
                    await client.collections.use(home)
                    .with_tenant(tenant_name(version.tenant))
                    .query.fetch_objects_by_ids(
                        list(wanted), include_vector=True, return_properties=[], limit=len(wanted)
                    )
                )
            except WeaviateBaseError as error:
                if is_unknown(error):
                    return {}
                raise
        return {wanted[one.uuid]: cast(Vector, one.vector["default"]) for one in answer.objects if one.vector}

    async def search(
        self,
        alias: str,
        tenant: str,
        collection_id: str,
        *,
        readers: Sequence[str],
        metadata: Mapping[str, str],
        text: str,
        vector: Vector,
        alpha: float,
        limit: int,
    ) -> list[tuple[str, int, float]]:
        """Version, number and score of the best chunks; fused by relative scores, which is our convex combination.

        Raises CollectionUnknown too.
        """
        async with self._connection.use("search", seconds=_SEARCH_SECONDS):
            try:
                answer = await self._searched(alias, tenant_name(tenant)).query.hybrid(
                    query=text,
                    vector=list(vector),
                    alpha=alpha,
                    fusion_type=HybridFusion.RELATIVE_SCORE,
                    query_properties=WORDS,
                    filters=visible(collection_id, readers, metadata),
                    limit=limit,
                    return_metadata=MetadataQuery(score=True),
                    return_properties=["version_id", "ordinal"],
                )
            except WeaviateBaseError as error:
                if not is_unknown(error):
                    raise
                if "tenant" in str(error):  # that has put nothing yet
                    return []
                raise CollectionUnknown(alias) from error
        return [
            (str(one.properties["version_id"]), int(str(one.properties["ordinal"])), float(one.metadata.score or 0.0))
            for one in answer.objects
        ]

    async def count(self, home: str, tenant: str, version_ids: Sequence[str]) -> dict[str, int]:
        """Number of chunks by version, of those that the collection has."""
        async with self._connection.use("count", seconds=_WRITE_SECONDS) as client:
            try:
                answer = (
                    await client.collections.use(home)
                    .with_tenant(tenant_name(tenant))
                    .aggregate.over_all(
                        filters=Filter.by_property("version_id").contains_any(list(version_ids)),
                        group_by=GroupByAggregate(prop="version_id", limit=len(version_ids)),
                        total_count=True,
                    )
                )
            except WeaviateBaseError as error:
                if is_unknown(error):
                    return {}
                raise
        return {str(group.grouped_by.value): group.total_count or 0 for group in answer.groups}

    async def delete(self, home: str, tenant: str, version_ids: Sequence[str]) -> None:
        """Deletes all chunks of versions."""
        async with self._connection.use("delete", seconds=_WRITE_SECONDS) as client:
            objects = client.collections.use(home).with_tenant(tenant_name(tenant)).data
            where = Filter.by_property("version_id").contains_any(list(version_ids))
            while True:
                try:
                    # One call deletes at most as many as the server's QUERY_MAXIMUM_RESULTS.
                    done = await objects.delete_many(where=where)
                except WeaviateBaseError as error:
                    if is_unknown(error):
                        return
                    raise
                if done.failed:
                    raise VectorStoreUnavailable(f"Weaviate did not delete {done.failed} passages", retry_after=2)
                if done.matches <= done.successful and not done.successful:
                    return

    def _handle(self, name: str, tenant: str) -> CollectionAsync[WeaviateProperties, None]:
        """What searches of a tenant go through. The client's check of argument types is left out: ours are checked."""
        return self._connection.client.collections.use(name, skip_argument_validation=True).with_tenant(tenant)

    async def drop_tenant(self, home: str, tenant: str) -> None:
        """Deletes a tenant with everything in it."""
        async with self._connection.use("drop_tenant", seconds=_WRITE_SECONDS) as client:
            await client.collections.use(home).tenants.remove([tenant_name(tenant)])


def is_unknown(error: WeaviateBaseError) -> bool:
    """Whether Weaviate knows no such tenant or collection."""
    text = str(error).lower()
    return "not found" in text or "could not find" in text


def _data_object(version: IndexedVersion, chunk: PendingChunk, vector: Vector) -> DataObject[WeaviateProperties, None]:
    return DataObject(
        uuid=object_id(version.version_id, chunk.ordinal),
        vector=list(vector),
        properties={
            "text": chunk.text,
            "context": chunk.context,
            "collection_id": version.collection_id,
            "version_id": version.version_id,
            "ordinal": chunk.ordinal,
            "readers": stored_readers(version.readers),
            "labels": stored_labels(version.metadata),
        },
    )


async def _insert(
    client: weaviate.WeaviateAsyncClient, home: str, tenant: str, batch: list[DataObject[WeaviateProperties, None]]
) -> dict[int, str]:
    """The errors of a batch by position."""
    try:
        answer = await client.collections.use(home).with_tenant(tenant_name(tenant)).data.insert_many(batch)
    except WeaviateInsertManyAllFailedError as error:
        return dict.fromkeys(range(len(batch)), str(error))
    return {position: error.message for position, error in answer.errors.items()}
