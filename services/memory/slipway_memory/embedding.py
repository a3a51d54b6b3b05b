"""Vectors for texts: what the domain asks for, and what it checks of the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from slipway_chassis.errors import FailedPrecondition

Vector = Sequence[float]


class EmbeddingUnusable(FailedPrecondition):
    """The model's answer can't be stored: wrong number of vectors or components, or not numbers."""

    reason = "EMBEDDING_UNUSABLE"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of the texts, and the catalogue's name of the model that made them."""

    vectors: Sequence[Vector]
    model: str


@dataclass(frozen=True, slots=True)
class RunEffect:
    """The effect of a run that a call belongs to: stable key, lease epoch, attempt, and the run that pays."""

    key: str
    epoch: int
    attempt: int
    root_run_id: str


class Embedder(Protocol):
    """Where vectors come from."""

    async def embed(
        self,
        tenant: str,
        model: str,
        texts: Sequence[str],
        *,
        regions: Sequence[str] | None = None,
        effect: RunEffect | None = None,
    ) -> Embedded:
        """Embeds up to 64 texts for a tenant. `regions` None: no demand. Raises SlipwayError."""
        ...


def check_vectors(vectors: Sequence[Vector], *, count: int, dimensions: int | None) -> int:
    """Returns the number of components. Raises EmbeddingUnusable."""
    if len(vectors) != count:
        raise EmbeddingUnusable(f"the embedding model answered {len(vectors)} vectors for {count} texts")
    size = dimensions if dimensions is not None else len(vectors[0])
    for vector in vectors:
        if len(vector) != size or not size:
            raise EmbeddingUnusable(f"the embedding model answered {len(vector)} dimensions instead of {size}")
        if not all(map(math.isfinite, vector)) or not any(vector):
            raise EmbeddingUnusable("the embedding model answered a vector without a direction")
    return size
