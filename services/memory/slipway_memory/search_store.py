"""Hybrid search in Postgres: pgvector and full text in one statement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Protocol

from slipway_memory.embedding import Vector
from slipway_memory.knowledge import Passage
from slipway_memory.store import vector_text
from slipway_memory.transactions import Database, row_values

# Each branch hands this many times the limit to the fusion, but never fewer than the second figure.
_CANDIDATES_FACTOR, _CANDIDATES_LEAST = 4, 100
# Sizes with a partition and an index of their own (migrations/0001_knowledge.sql).
_INDEXED_DIMENSIONS = (384, 768, 1024, 1536)


class PassageIndex(Protocol):
    """Where passages are found."""

    async def search(
        self,
        collection_id: str,
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


@cache
def _statement(dimensions: int) -> str:
    text = files("slipway_memory").joinpath("search_query.sql").read_text()
    vectors = f"chunk_embedding_{dimensions if dimensions in _INDEXED_DIMENSIONS else 'other'}"
    return text.format(vectors=vectors, dimensions=int(dimensions))


class PostgresPassageIndex:
    """PassageIndex over the tables of `store.py`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def search(
        self,
        collection_id: str,
        *,
        readers: Sequence[str],
        metadata: Mapping[str, str],
        text: str,
        vector: Vector,
        alpha: float,
        limit: int,
    ) -> list[Passage]:
        """See PassageIndex."""
        candidates = max(_CANDIDATES_FACTOR * limit, _CANDIDATES_LEAST)
        async with self._database.transaction() as transaction:
            connection = transaction.connection
            # Without iterative scans the index hands out ef_search rows, and a filter may leave none of them. Without
            # sorts the planner takes the order from the index: it knows no statistics of distances.
            await connection.execute(
                f"SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = {2 * candidates};"
                " SET LOCAL hnsw.max_scan_tuples = 200000; SET LOCAL enable_sort = off"
            )
            rows = await connection.fetch(
                _statement(len(vector)),
                *(collection_id, list(readers), json.dumps(dict(metadata)), vector_text(vector), text),
                *(alpha, limit, candidates),
            )
        return [Passage(**row_values(row, headings=tuple(row["headings"]))) for row in rows]
