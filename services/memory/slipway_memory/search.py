"""Search: the caller's question to passages, with access lists in the query and an audit record for runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectLedger
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.telemetry import span

from slipway_memory import metrics
from slipway_memory.access import principals
from slipway_memory.collections import Collections
from slipway_memory.embedding import Embedder, RunEffect, check_vectors
from slipway_memory.errors import RegionNotAllowed
from slipway_memory.knowledge import Collection, Passage, check_labels
from slipway_memory.transactions import Database
from slipway_memory.vectors.index import PassageIndex

DEFAULT_ALPHA = 0.5
DEFAULT_LIMIT = 5


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A question to a collection; checked when made. `regions` None: the caller demands none."""

    collection: str
    text: str
    limit: int
    alpha: float | None
    metadata: Mapping[str, str]
    regions: tuple[str, ...] | None

    def __post_init__(self) -> None:
        """Raises InvalidArgument naming the wrong field."""
        if not len(self.text.strip()) >= 1 or len(self.text) > 4000 or "\x00" in self.text:
            raise InvalidArgument("the question has 1 to 4000 characters", field="query")
        if not 0 <= self.limit <= 50:
            raise InvalidArgument("the limit is 1 to 50, or 0 for 5", field="limit")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise InvalidArgument("alpha is 0 (words alone) to 1 (meaning alone)", field="alpha")
        check_labels(self.metadata, "metadata", most=32)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Passages, best first, and the audit record of a run's retrieval."""

    passages: tuple[Passage, ...]
    event_id: str = ""
    commitment: str = ""


_ANSWERS = TypeAdapter(SearchResult)


def check_regions_allowed(collection: Collection, demanded: Sequence[str] | None) -> None:
    """Raises RegionNotAllowed unless all regions that the collection's data is in are demanded ones. A collection that
    declares none, and a demand for none, are refused: nothing is known to be allowed.
    """
    if demanded is None:
        return
    if not demanded or not collection.regions or not set(collection.regions) <= set(demanded):
        held = ", ".join(collection.regions) or "no region declared"
        raise RegionNotAllowed(
            f"collection {collection.name} ({held}) is not in the regions demanded ({', '.join(demanded) or 'none'})",
            field="regions",
        )


class Search:
    """Finds passages by meaning and by words.

    Both scores are min-max normalised over the candidates and fused by a convex combination: Bruch, Gai, Ingber, "An
    Analysis of Fusion Functions for Hybrid Retrieval", arXiv 2210.11934. It beat reciprocal rank fusion there, and its
    one parameter needs few examples to set.
    """

    def __init__(
        self,
        database: Database,
        collections: Collections,
        index: PassageIndex,
        embedder: Embedder,
        ledger: EffectLedger,
    ) -> None:
        self._database = database
        self._collections = collections
        self._index = index
        self._embedder = embedder
        self._ledger = ledger

    async def search(self, caller: Caller, query: SearchQuery, effect: RunEffect | None) -> SearchResult:
        """Searches for a caller; with an effect once, and recorded as audit event `retrieval`.

        Raises CollectionNotFound, PolicyDenied, RegionNotAllowed, what the router raises, and the ledger's errors.
        """
        collection, decision = await self._collections.find(caller, query.collection, "ReadCollection")
        check_regions_allowed(collection, query.regions)
        if effect is None:
            return SearchResult(tuple(await self._passages(caller, collection, query, None)))
        asked = [query.collection, query.text, query.limit, str(query.alpha), query.regions]
        fingerprint = json.dumps([asked, dict(query.metadata)], sort_keys=True).encode()

        async def action() -> bytes:
            passages = await self._passages(caller, collection, query, effect)
            return _ANSWERS.dump_json(await self._recorded(caller, query, passages, decision))

        answer = await self._ledger.perform(caller, effect, fingerprint, action, in_doubt="repeat")
        return _ANSWERS.validate_json(answer)

    async def _passages(
        self, caller: Caller, collection: Collection, query: SearchQuery, effect: RunEffect | None
    ) -> list[Passage]:
        attributes = {
            "gen_ai.operation.name": "retrieval",
            "slipway.tenant": caller.tenant,
            "slipway.collection": collection.name,
            "gen_ai.request.model": collection.embedding_model,
        }
        with span("memory.search", attributes=attributes) as current:
            started = time.perf_counter()
            embedded = await self._embedder.embed(
                caller.tenant, collection.embedding_model, [query.text], regions=query.regions, effect=effect
            )
            check_vectors(embedded.vectors, count=1, dimensions=collection.dimensions)
            asked = time.perf_counter()
            passages = await self._index.search(
                collection,
                readers=principals(caller),
                metadata=query.metadata,
                text=query.text,
                vector=embedded.vectors[0],
                alpha=DEFAULT_ALPHA if query.alpha is None else query.alpha,
                limit=query.limit or DEFAULT_LIMIT,
            )
            metrics.SEARCH_SECONDS.labels("embed").observe(asked - started)
            metrics.SEARCH_SECONDS.labels("query").observe(time.perf_counter() - asked)
            if not passages:
                metrics.EMPTY_SEARCHES.inc()
            current.set_attribute("slipway.passages", len(passages))
        return passages

    async def _recorded(
        self, caller: Caller, query: SearchQuery, passages: Sequence[Passage], decision: PolicyDecision
    ) -> SearchResult:
        async with self._database.transaction() as transaction:
            sealed = await transaction.record(
                "retrieval",
                caller=caller,
                resource=f"collection/{query.collection}",
                data={
                    "query": query.text,
                    "alpha": str(DEFAULT_ALPHA if query.alpha is None else query.alpha),
                    "passages": [
                        {
                            "id": passage.passage_id,
                            "document": passage.document,
                            "document_digest": passage.document_digest,
                            "score": f"{passage.score:.6f}",
                        }
                        for passage in passages
                    ],
                },
                policy=decision,
            )
        return SearchResult(tuple(passages), sealed.event_id, sealed.commitment)
