"""The seam: what indexing and search ask of an index of passages, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from slipway_memory.embedding import Vector
from slipway_memory.knowledge import Collection, Passage


@dataclass(frozen=True, slots=True)
class IndexingJob:
    """A version to index, leased to `indexer`.

    `live`: it is searched already, and the index lacks some of it. `age` is seconds since it was put, `failures` are
    attempts given up.
    """

    version_id: str
    indexer: str
    tenant: str
    embedding_model: str
    dimensions: int
    regions: tuple[str, ...]
    live: bool
    age: float
    failures: int


@dataclass(frozen=True, slots=True)
class PendingChunk:
    """A chunk that an index lacks. `vector`: its vector, if it is known and need not be made again."""

    chunk_id: int
    ordinal: int
    context: str
    text: str
    vector: Vector | None = None


@dataclass(frozen=True, slots=True)
class PendingChunks:
    """Chunks of one version that `home`, the index or one of its generations, lacks."""

    home: str
    chunks: Sequence[PendingChunk]


class PassageIndex(Protocol):
    """An index of passages. What is visible, and the passages' text, is in the service's own database in any case.

    All methods raise VectorStoreUnavailable when the index does not answer in time, VectorStoreRefused when it does not
    accept the service's key.
    """

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
        """The best `limit` passages that one of `readers` may read and whose document has all of `metadata`.

        The score is `alpha * meaning + (1 - alpha) * wording`, each min-max normalised over the candidates.
        """
        ...

    async def pending(self, job: IndexingJob, limit: int) -> PendingChunks | None:
        """The next chunks of the version, at most `limit`; None when the index has it all."""
        ...

    async def add(self, job: IndexingJob, pending: PendingChunks, vectors: Sequence[Vector]) -> bool:
        """Stores chunks with their vectors and renews the lease; False when the lease is lost.

        All or an error; adding the same again changes nothing.
        """
        ...

    async def tend(self) -> int:
        """Regular work: what the index lacks is sent to be indexed again, what nothing needs is deleted from it.

        Returns the number of versions that it did something for.
        """
        ...

    async def check(self) -> None:
        """One round trip."""
        ...

    async def check_owner(self) -> None:
        """Raises VectorStoreRefused when what is there belongs to another installation."""
        ...

    async def close(self) -> None:
        """Ends connections."""
        ...
