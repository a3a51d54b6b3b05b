"""Embeds the chunks of new versions and switches to them: the consumer of `memory.ingest`, and its sweeper."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from opentelemetry.trace import SpanKind
from slipway_chassis.bus import Message
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.ids import new_id
from slipway_chassis.logs import get_logger
from slipway_chassis.telemetry import extract, span

from slipway_memory import metrics
from slipway_memory.embedding import Embedder, Vector, check_vectors
from slipway_memory.errors import VectorStoreRefused, VectorStoreUnavailable
from slipway_memory.indexing_store import IndexingStore
from slipway_memory.ingest_topic import version_of
from slipway_memory.vectors.index import IndexingJob, PassageIndex, PendingChunk

_log = get_logger(__name__)

BATCH = 64
# Kinds that may pass by themselves; any other will be the same next time.
_PASSING = {
    ErrorKind.UNAVAILABLE,
    ErrorKind.DEADLINE_EXCEEDED,
    ErrorKind.RESOURCE_EXHAUSTED,
    ErrorKind.ABORTED,
    ErrorKind.INTERNAL,
    ErrorKind.UNAUTHENTICATED,
}
_LONGEST_WAIT = 60.0


class Indexer:
    """One per process. Any number of them, and any redelivery, give the same result."""

    def __init__(self, store: IndexingStore, index: PassageIndex, embedder: Embedder, *, patience: float) -> None:
        """`patience` in seconds: a version that can't be embedded for so long is FAILED.

        An index that is away is waited for as long as it takes.
        """
        self._store = store
        self._index = index
        self._embedder = embedder
        self._patience = patience

    async def handle(self, message: Message, delivery: int) -> None:
        """Indexes the version that a message names. One that is gone or taken, or that the index has, needs nothing."""
        del delivery  # every delivery is handled alike: what is done already is found in the database
        job = await self._store.claim(version_of(message.body), new_id("idx"))
        if job is None:
            return
        try:
            attributes = {"slipway.version": job.version_id, "slipway.tenant": job.tenant}
            # One trace from the put to the switch.
            with span("memory.index", kind=SpanKind.CONSUMER, parent=extract(message.headers), attributes=attributes):
                await self._index_all(job)
        except SlipwayError as error:
            await self._give_up(job, error)
        except asyncio.CancelledError:
            # Shutting down: whoever gets the message next need not wait for the lease to run out.
            await asyncio.shield(self._store.release(job.version_id, job.indexer))
            raise

    async def _index_all(self, job: IndexingJob) -> None:
        lacked = False
        while pending := await self._index.pending(job, BATCH):
            lacked = True
            vectors = await self._vectors(job, pending.chunks)
            if not await self._index.add(job, pending, vectors):
                return
        if job.live:
            await self._store.release(job.version_id, job.indexer)
            if lacked:
                metrics.INDEXED_VERSIONS.labels("repaired").inc()
        elif await self._store.switch(job.version_id, job.indexer):
            metrics.INDEXED_VERSIONS.labels("ready").inc()
            _log.info("document.indexed", version_id=job.version_id, tenant=job.tenant)

    async def _vectors(self, job: IndexingJob, chunks: Sequence[PendingChunk]) -> list[Vector]:
        """The chunks' vectors; only those that nobody knows are asked for."""
        unknown = [chunk for chunk in chunks if chunk.vector is None]
        made: dict[int, Vector] = {}
        if unknown:
            texts = [f"{chunk.context}\n{chunk.text}" if chunk.context else chunk.text for chunk in unknown]
            answer = await self._embedder.embed(
                job.tenant, job.embedding_model, texts, regions=job.regions if job.regions else None
            )
            check_vectors(answer.vectors, count=len(texts), dimensions=job.dimensions)
            made = dict(zip((chunk.chunk_id for chunk in unknown), answer.vectors, strict=True))
            metrics.EMBEDDED_CHUNKS.inc(len(unknown))
        return [made[chunk.chunk_id] if chunk.vector is None else chunk.vector for chunk in chunks]

    async def _give_up(self, job: IndexingJob, error: SlipwayError) -> None:
        fields = {"version_id": job.version_id, "tenant": job.tenant, "reason": error.reason}
        passing = error.kind in _PASSING and error.reason != "BUDGET_EXHAUSTED" and job.age < self._patience
        if job.live or passing or isinstance(error, VectorStoreUnavailable | VectorStoreRefused):
            wait = error.retry_after or min(2.0 ** min(job.failures, 10), _LONGEST_WAIT)
            _log.warning("document.indexing_postponed", wait_seconds=wait, **fields)
            await self._store.postpone(job.version_id, job.indexer, wait)
        else:
            _log.log(logging.ERROR, "document.indexing_failed", **fields)
            metrics.INDEXED_VERSIONS.labels("failed").inc()
            await self._store.fail(job.version_id, job.indexer, f"{error.reason}: {error.message}")
