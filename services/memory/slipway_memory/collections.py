"""Collections: created with an embedding model that is tried out, listed and read as policy allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from slipway_chassis.caller import Caller
from slipway_chassis.errors import Internal, InvalidArgument
from slipway_chassis.paging import decode_token, encode_token, page_size
from slipway_chassis.policy import PolicyDecision, PolicyEngine

from slipway_memory.access import collection_resource
from slipway_memory.embedding import Embedder, check_vectors
from slipway_memory.errors import CollectionNotFound, EmbeddingModelFixed
from slipway_memory.knowledge import Collection, check_collection_name, check_regions
from slipway_memory.store import KnowledgeStore
from slipway_memory.transactions import Transaction

_LIST = "ListCollections"


@dataclass(frozen=True, slots=True)
class CollectionPut:
    """A collection after a change, and whether it is new."""

    collection: Collection
    created: bool


_ANSWERS = TypeAdapter(CollectionPut)


class Collections:
    """Creates, changes and reads collections for a caller."""

    def __init__(self, store: KnowledgeStore, policy: PolicyEngine, embedder: Embedder) -> None:
        self._store = store
        self._policy = policy
        self._embedder = embedder

    async def find(self, caller: Caller, name: str, action: str) -> tuple[Collection, PolicyDecision]:
        """The collection of that name in the caller's tenant, without its counts, when policy allows `action` on it.

        Raises CollectionNotFound (another tenant's, too), PolicyDenied.
        """
        check_collection_name(name)
        collection = await self._store.uncounted_collection(caller.tenant, name)
        if collection is None:
            raise CollectionNotFound(f"there is no collection {name}", field="collection")
        return collection, self._policy.authorize(caller, action, collection_resource(caller.tenant, name))

    async def put(
        self,
        caller: Caller,
        *,
        name: str,
        description: str,
        embedding_model: str,
        regions: Sequence[str],
        request_id: str,
    ) -> CollectionPut:
        """Creates or changes a collection. A new one's model is asked for one vector, which fixes name and dimensions.

        Raises InvalidArgument, PolicyDenied, EmbeddingModelFixed, and what the router raises.
        """
        check_collection_name(name)
        if len(description) > 2000 or "\x00" in description:
            raise InvalidArgument("at most 2000 characters of text", field="description")
        wanted = check_regions(regions)
        decision = self._policy.authorize(caller, "ManageCollection", collection_resource(caller.tenant, name))
        existing = await self._store.collection(caller.tenant, name)
        model, dimensions = embedding_model, 0
        if existing is None:
            probe = await self._embedder.embed(caller.tenant, embedding_model, ["dimensions"], regions=wanted or None)
            model, dimensions = probe.model, check_vectors(probe.vectors, count=1, dimensions=None)
        elif embedding_model and embedding_model != existing.embedding_model:
            raise EmbeddingModelFixed(
                f"the collection's embedding model is {existing.embedding_model}; make a new collection for another",
                field="embedding_model",
            )
        fingerprint = json.dumps([name, description, embedding_model, wanted]).encode()
        async with self._store.database.transaction() as transaction:

            async def produce() -> CollectionPut:
                created = existing is None and await self._store.insert_collection(
                    transaction,
                    tenant=caller.tenant,
                    name=name,
                    description=description,
                    embedding_model=model,
                    dimensions=dimensions,
                    regions=wanted,
                )
                return await self._changed(transaction, caller, name, description, wanted, created, decision)

            return await transaction.once(caller, "PutCollection", request_id, fingerprint, _ANSWERS, produce)

    async def _changed(
        self,
        transaction: Transaction,
        caller: Caller,
        name: str,
        description: str,
        regions: Sequence[str],
        created: bool,
        decision: PolicyDecision,
    ) -> CollectionPut:
        collection = await self._store.collection_in(transaction, caller.tenant, name)
        if collection is None:
            raise Internal("a collection that was just written is gone")
        if not created and (collection.description, collection.regions) == (description, tuple(regions)):
            return CollectionPut(collection, created=False)
        if not created:
            await self._store.update_collection(
                transaction, collection.collection_id, description=description, regions=regions
            )
            collection = await self._store.collection_in(transaction, caller.tenant, name) or collection
        await transaction.record(
            "collection.put",
            caller=caller,
            resource=f"collection/{name}",
            data={"created": created, "embedding_model": collection.embedding_model, "regions": list(regions)},
            policy=decision,
        )
        return CollectionPut(collection, created)

    async def get(self, caller: Caller, name: str) -> Collection:
        """A collection that the caller may read, with its counts."""
        found, _ = await self.find(caller, name, "ReadCollection")
        return await self._store.collection(caller.tenant, name) or found

    async def list(self, caller: Caller, *, size: int, token: str) -> tuple[list[Collection], str]:
        """A page of the tenant's collections that the caller may read, and the next page's token."""
        wanted = page_size(size, 50, 200)
        position = decode_token(caller.tenant, _LIST, token, (str,))
        after = str(position[0]) if position else ""
        found: list[Collection] = []
        while len(found) <= wanted:
            batch = await self._store.collections(caller.tenant, after, wanted + 1)
            for collection in batch:
                resource = collection_resource(caller.tenant, collection.name)
                if self._policy.decide(caller, "ReadCollection", resource).allowed:
                    found.append(collection)
            if len(batch) <= wanted:
                break
            after = batch[-1].name
        page = found[:wanted]
        return page, encode_token(caller.tenant, _LIST, page[-1].name) if len(found) > wanted else ""
