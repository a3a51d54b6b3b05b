"""Access lists and labels do not cost recall: what is nearest among the visible chunks is found, few or many."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
import numpy as np
import pytest
from slipway_chassis.postgres import migrate, open_pool
from slipway_memory.knowledge import Collection
from slipway_memory.store import vector_text
from slipway_memory.transactions import Database
from slipway_memory.vectors.pgvector import PostgresPassageIndex

DOCUMENTS, PER_DOCUMENT = 300, 20
SEED = 7
NOW = datetime.now(UTC)
COLLECTION = Collection("col_1", "t", "c", "", "m", 384, (), 0, 0, NOW, NOW)


async def fill(pool: asyncpg.Pool, vectors: np.ndarray, readers: dict[int, list[str]]) -> None:
    """A collection of READY documents of 20 chunks each, with the vectors given."""
    await pool.execute("INSERT INTO collection VALUES ('col_1', 't', 'c', '', 'm', 384, '{}')")
    await pool.execute(
        "INSERT INTO document (document_id, tenant, collection_id, name, latest_version, live_version)"
        " SELECT 'doc_' || n, 't', 'col_1', 'd' || n, 'v' || n, 'v' || n FROM generate_series(0, $1) n",
        DOCUMENTS - 1,
    )
    await pool.executemany(
        "INSERT INTO document_version (version_id, document_id, tenant, owner, filename, declared_type, content_type,"
        " size_bytes, digest, title, page_count, readers, metadata, object_key, state, chunk_count)"
        " VALUES ('v' || $1::int, 'doc_' || $1::int, 't', '', '', '', '', 1, '', '', 0, $2, '{}', '', 'READY', $3)",
        [(n, readers.get(n, []), PER_DOCUMENT) for n in range(DOCUMENTS)],
    )
    await pool.execute(
        "INSERT INTO chunk (version_id, ordinal, text, headings, context, page, start_offset, end_offset)"
        " SELECT 'v' || d, n, 'text', '{}', '', 0, 0, 4 FROM generate_series(0, $1) d, generate_series(0, $2) n",
        *(DOCUMENTS - 1, PER_DOCUMENT - 1),
    )
    await pool.execute(
        "INSERT INTO chunk_embedding SELECT chunk_id, 384, version_id, vector::vector FROM chunk"
        " JOIN unnest($1::text[]) WITH ORDINALITY AS given (vector, n)"
        " ON n = substr(version_id, 2)::int * $2 + ordinal + 1",
        *([vector_text(vector) for vector in vectors.tolist()], PER_DOCUMENT),
        timeout=100,
    )
    await pool.execute("ANALYZE")


@pytest.mark.timeout(180)
async def test_the_nearest_visible_passages_are_found_whatever_the_access_lists_leave(database_url):
    random = np.random.default_rng(SEED)
    # 24 directions in 384 dimensions, as sentences have, and some noise; neighbours lie in neighbouring documents.
    low = random.normal(size=(DOCUMENTS * PER_DOCUMENT, 24))
    query_low = random.normal(size=24)
    low = low[np.argsort(-(low @ query_low) / np.linalg.norm(low, axis=1))]
    projection = random.normal(size=(24, 384))
    vectors = low @ projection + 0.2 * random.normal(size=(len(low), 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = query_low @ projection
    query /= np.linalg.norm(query)
    # The 60 documents nearest to the query are closed to most; one in fifty of the others is open to a few only.
    readers = {n: ["role:near"] for n in range(60)} | {n: ["role:few"] for n in range(60, DOCUMENTS, 50)}
    pool = await open_pool(database_url)
    await migrate(pool, "slipway_memory", chassis=("outbox", "idempotency", "effects", "subject_keys"))
    await fill(pool, vectors, readers)
    nothing: Any = None
    index = PostgresPassageIndex(Database(pool, nothing, nothing), lease_seconds=60)

    async def recall(roles: list[str]) -> float:
        visible = [n for n in range(DOCUMENTS) if not readers.get(n) or set(readers[n]) & set(roles)]
        rows = np.concatenate([np.arange(n * PER_DOCUMENT, (n + 1) * PER_DOCUMENT) for n in visible])
        best = rows[np.argsort(-(vectors[rows] @ query))[:20]]
        wanted = {f"v{row // PER_DOCUMENT}.{row % PER_DOCUMENT}" for row in best}
        found = await index.search(
            COLLECTION, readers=roles, metadata={}, text="nothing", vector=query.tolist(), alpha=1, limit=20
        )
        assert {int(one.document[1:]) for one in found} <= set(visible)
        return len(wanted & {one.passage_id for one in found}) / 20

    print("seed", SEED)
    # Through the index: everything but a little; and all but the 1200 nearest.
    assert await recall(["role:near"]) >= 0.95
    assert await recall(["role:nobody"]) >= 0.95
    # A few documents out of many: compared one by one.
    await pool.execute("UPDATE document_version SET readers = '{role:other}' WHERE readers = '{}'")
    readers |= {n: ["role:other"] for n in range(DOCUMENTS) if n not in readers}
    assert await recall(["role:few"]) == 1
    await pool.close()
