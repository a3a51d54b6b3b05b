"""Proofs over a tenant's log, between heads that were signed or any smaller tree."""

from dataclasses import dataclass

from slipway_evidence.merkle import (
    consistency_nodes,
    consistency_proof,
    inclusion_nodes,
    inclusion_proof,
    leaf_hash,
)

from slipway_audit.errors import LeafNotFound, LogEmpty, TreeSizeInvalid
from slipway_audit.head_store import HeadStore
from slipway_audit.store import LogStore


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A leaf is in a tree."""

    index: int
    tree_size: int
    leaf_hash: bytes
    hashes: list[bytes]
    root: bytes


@dataclass(frozen=True, slots=True)
class Consistency:
    """A tree is a prefix of another."""

    first_size: int
    second_size: int
    hashes: list[bytes]
    first_root: bytes
    second_root: bytes


class Proofs:
    """Makes proofs up to the newest signed head."""

    def __init__(self, store: LogStore, heads: HeadStore) -> None:
        self._store = store
        self._heads = heads

    async def inclusion(self, tenant: str, event_id: str, index: int, tree_size: int) -> Inclusion:
        """Audit path of an event's leaf, or of the leaf at `index`. Raises LeafNotFound, TreeSizeInvalid, LogEmpty."""
        size = await self._size(tenant, tree_size, "tree_size")
        place = await self._store.index_of(tenant, event_id) if event_id else index
        commitment = await self._store.commitment(tenant, place) if place is not None and place >= 0 else None
        if place is None or commitment is None or (place >= size and not tree_size):
            raise LeafNotFound(f"no checkpoint covers a leaf {event_id or index}")
        if place >= size:
            raise TreeSizeInvalid(f"the tree of {size} leaves does not reach to leaf {place}", field="tree_size")
        hashes = await self._store.nodes(tenant, size, inclusion_nodes(place, size))
        proof = inclusion_proof(place, size, hashes)
        return Inclusion(place, size, leaf_hash(commitment), proof, await self._store.root(tenant, size))

    async def consistency(self, tenant: str, first: int, second: int) -> Consistency:
        """Proof from a tree to a later one. Raises TreeSizeInvalid, LogEmpty."""
        size = await self._size(tenant, second, "second_size")
        if not 0 < first <= size:
            raise TreeSizeInvalid(f"must be from 1 to {size}", field="first_size")
        hashes = await self._store.nodes(tenant, size, consistency_nodes(first, size))
        return Consistency(
            first,
            size,
            consistency_proof(first, size, hashes),
            await self._store.root(tenant, first),
            await self._store.root(tenant, size),
        )

    async def _size(self, tenant: str, requested: int, field: str) -> int:
        """The tree's size that was asked for; 0: the newest head's."""
        head = await self._heads.last(tenant)
        if head is None:
            raise LogEmpty("the tenant's audit log has no checkpoint yet")
        if not 0 <= requested <= head.size:
            raise TreeSizeInvalid(f"must be from 1 to {head.size}, the newest checkpoint's, or 0 for that", field=field)
        return requested or head.size
