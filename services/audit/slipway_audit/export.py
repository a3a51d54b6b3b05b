"""Taking a run's evidence out of the log."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from slipway_evidence.bundle import MAX_BUNDLE_BYTES, MAX_ENTRIES, Bundle, Entry, Erased, attest, encode
from slipway_evidence.event import parse_event
from slipway_evidence.journal import JournalEvent, contiguous, journal_event, missing, references
from slipway_evidence.merkle import inclusion_nodes, inclusion_proof

from slipway_audit.checkpoints import Checkpointer
from slipway_audit.errors import EvidenceTooLarge, RunNotFound
from slipway_audit.head_store import SignedHead
from slipway_audit.store import LogStore, StoredLeaf


@dataclass(frozen=True, slots=True)
class Evidence:
    """A bundle, and what the export says of itself in the log."""

    data: bytes
    complete: bool
    entries: int
    tree_size: int

    @property
    def digest(self) -> str:
        """`sha256:` and hex digest of the bundle's bytes."""
        return "sha256:" + hashlib.sha256(self.data).hexdigest()


class EvidenceExport:
    """Makes evidence bundles."""

    def __init__(self, store: LogStore, checkpointer: Checkpointer) -> None:
        self._store = store
        self._checkpointer = checkpointer

    async def check_known(self, tenant: str, run_id: str) -> None:
        """Raises RunNotFound when the tenant's log knows nothing of the run."""
        if not await self._store.run_leaves(tenant, run_id, 1):
            raise RunNotFound(f"there is no evidence of a run {run_id}")

    async def run(self, tenant: str, run_id: str) -> Evidence:
        """The evidence of a run as the log has it now. Raises RunNotFound, EvidenceTooLarge, and as `sign` does."""
        leaves = await self._store.run_leaves(tenant, run_id, MAX_ENTRIES + 1)
        if not leaves:
            raise RunNotFound(f"there is no evidence of a run {run_id}")
        journal = sorted((row for leaf in leaves if (row := _row(leaf, run_id))), key=lambda row: row.seq)
        kept = contiguous(journal)
        # What arrived ahead of its predecessor waits for the next export: a bundle's journal has no gap.
        early = {row.seq for row in journal[len(kept) :]}
        leaves = [leaf for leaf in leaves if leaf.seq not in early]
        leaves += await self._referenced(tenant, kept, {leaf.event_id for leaf in leaves})
        if len(leaves) > MAX_ENTRIES:
            raise EvidenceTooLarge(f"the run has more than {MAX_ENTRIES} events, the most that a bundle holds")
        leaves.sort(key=lambda leaf: leaf.index)
        head = await self._checkpointer.sign(tenant)
        complete = missing(kept, {leaf.event_id: leaf.commitment.hex() for leaf in leaves}) is None
        entries = await self._entries(tenant, head, leaves)
        bundle = Bundle(tenant, run_id, complete, head.note, entries)
        origin = self._checkpointer.origin(tenant, head.generation)
        data = encode(attest(bundle, origin, self._checkpointer.key_of(head)))
        if len(data) > MAX_BUNDLE_BYTES:
            raise EvidenceTooLarge(f"the run's evidence is beyond the {MAX_BUNDLE_BYTES} bytes that a bundle holds")
        return Evidence(data, complete, len(entries), head.size)

    async def _referenced(self, tenant: str, journal: Sequence[JournalEvent], known: set[str]) -> list[StoredLeaf]:
        wanted = {reference.event_id for reference in references(journal)} - known
        return await self._store.leaves_by_id(tenant, sorted(wanted)) if wanted else []

    async def _entries(self, tenant: str, head: SignedHead, leaves: Sequence[StoredLeaf]) -> tuple[Entry, ...]:
        needed = {node for leaf in leaves for node in inclusion_nodes(leaf.index, head.size)}
        hashes = await self._store.nodes(tenant, head.size, sorted(needed))
        return tuple(_entry(leaf, inclusion_proof(leaf.index, head.size, hashes)) for leaf in leaves)


def _row(leaf: StoredLeaf, run_id: str) -> JournalEvent | None:
    if leaf.seq is None or leaf.run_id != run_id:
        return None
    if leaf.event is None:
        return JournalEvent(leaf.seq, leaf.kind, leaf.commitment.hex(), "")
    return journal_event(parse_event(leaf.event.encode()), leaf.commitment.hex(), "")


def _entry(leaf: StoredLeaf, proof: Sequence[bytes]) -> Entry:
    erased = None
    if leaf.event is None:
        erased = Erased(leaf.event_id, leaf.type, leaf.seq, leaf.kind)
    return Entry(leaf.index, leaf.commitment, tuple(proof), leaf.event, leaf.salt, erased)
