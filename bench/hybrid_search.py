"""Hybrid search through memory against the raw query of its store, turn by turn; one JSON line a store.

Memory's Search with the policy, the access list, the words and the passages' text, its embedding excluded (vectors of
the questions are known); against the statement alone in PostgreSQL, and against Weaviate's client alone with the same
filter and the same number of passages. Vectors are random around 1,000 directions, texts are words of a Zipf
distribution.

Run: `python bench/hybrid_search.py [--chunks 100000] [--questions 200] [--store pgvector|weaviate]`. Loading takes far
longer than asking: `--database URL` and `--vectors URL` name servers of yours that keep what the first run loaded.
"""

import argparse
import asyncio
import base64
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from slipway_chassis.bus import Message
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.effects import EffectLedger
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import close_pool, migrate, open_pool
from slipway_memory.access import principals
from slipway_memory.collections import Collections
from slipway_memory.embedding import Embedded
from slipway_memory.indexing import Indexer
from slipway_memory.indexing_store import IndexingStore
from slipway_memory.search import Search, SearchQuery
from slipway_memory.store import KnowledgeStore, vector_text
from slipway_memory.transactions import Database
from slipway_memory.vectors.opening import open_index
from slipway_testkit.servers.postgres import embedded_postgres
from slipway_testkit.servers.weaviate import weaviate

SIZE, PER_DOCUMENT, LIMIT, ALPHA = 384, 250, 10, 0.5
_CALLER = Caller("alice", "acme", "user", frozenset({"developer"}), frozenset(), None, None, "t", datetime.now(UTC))
_NOTHING: Any = None


class Corpus:
    """Texts and unit vectors, the same for the same seed."""

    def __init__(self, chunks: int, questions: int) -> None:
        self.random = np.random.default_rng(7)
        self.words = [f"w{number}" for number in range(20_000)]
        centres = self.random.normal(size=(1000, SIZE))
        self.vectors = self._near(centres, chunks)
        self.texts = [self._text(60) for _ in range(chunks)]
        self.questions = [(self._text(4), vector.tolist()) for vector in self._near(centres, questions)]

    def _near(self, centres: np.ndarray, count: int) -> np.ndarray:
        found = centres[self.random.integers(0, len(centres), count)] + 0.5 * self.random.normal(size=(count, SIZE))
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def _text(self, words: int) -> str:
        return " ".join(self.words[n % len(self.words)] for n in self.random.zipf(1.3, words))


class Known:
    """An embedder that knows the vectors of the texts."""

    def __init__(self, corpus: Corpus) -> None:
        self._vectors = dict(corpus.questions)

    async def embed(self, tenant: str, model: str, texts: list[str], **demands: Any) -> Embedded:
        """The questions' vectors, at once."""
        return Embedded([self._vectors[text] for text in texts], model)


async def fill(pool: Any, corpus: Corpus) -> None:
    """READY documents with their vectors in PostgreSQL."""
    documents = -(-len(corpus.texts) // PER_DOCUMENT)
    await pool.execute("INSERT INTO collection VALUES ('col', 'acme', 'handbook', '', 'm', $1, '{}')", SIZE)
    await pool.execute(
        "INSERT INTO document (document_id, tenant, collection_id, name, latest_version, live_version)"
        " SELECT 'doc' || n, 'acme', 'col', 'd' || n, 'v' || n, 'v' || n FROM generate_series(0, $1) n",
        documents - 1,
    )
    sizes = [min(PER_DOCUMENT, len(corpus.texts) - n * PER_DOCUMENT) for n in range(documents)]
    await pool.executemany(
        "INSERT INTO document_version (version_id, document_id, tenant, owner, filename, declared_type, content_type,"
        " size_bytes, digest, title, page_count, readers, metadata, object_key, state, chunk_count) VALUES"
        " ('v' || $1::int, 'doc' || $1::int, 'acme', '', '', '', '', 1, '', '', 0, $2, '{}', '', 'READY', $3)",
        [(n, [] if n % 3 else ["role:developer"], size) for n, size in enumerate(sizes)],
    )
    vectors = f"chunk_embedding_{SIZE}"
    # Made at once when everything is there, the index of the vectors takes a tenth of the time.
    (index,) = await pool.fetch(
        "SELECT indexname AS name, indexdef AS statement FROM pg_indexes"
        " WHERE tablename = $1 AND indexdef LIKE '%hnsw%'",
        vectors,
    )
    await pool.execute(f"DROP INDEX {index['name']}")
    for start in range(0, len(corpus.texts), 5000):
        part = corpus.texts[start : start + 5000]
        await pool.execute(
            "INSERT INTO chunk (version_id, ordinal, text, headings, context, page, start_offset, end_offset)"
            " SELECT 'v' || n / $2::int, n % $2::int, text, '{}', '', 0, 0, length(text)"
            " FROM (SELECT $3::int + ordinality::int - 1 AS n, text"
            " FROM unnest($1::text[]) WITH ORDINALITY AS g (text)) AS given",
            *(part, PER_DOCUMENT, start),
            timeout=600,
        )
        await pool.execute(
            "INSERT INTO chunk_embedding SELECT c.chunk_id, $3, c.version_id, g.v::vector"
            " FROM unnest($1::text[]) WITH ORDINALITY AS g (v, n)"
            " JOIN chunk c ON c.version_id = 'v' || ($4::int + n::int - 1) / $2::int"
            " AND c.ordinal = ($4::int + n::int - 1) % $2::int",
            *([vector_text(v) for v in corpus.vectors[start : start + 5000].tolist()], PER_DOCUMENT, SIZE, start),
            timeout=1200,
        )
    async with pool.acquire() as connection:
        await connection.execute("SET maintenance_work_mem = '1GB'")
        await connection.execute(index["statement"], timeout=3600)
        await connection.execute("RESET maintenance_work_mem")
    await pool.execute("ANALYZE")


def raw_postgres(pool: Any) -> Callable[[str, list[float]], Awaitable[Any]]:
    """The statement alone, with the settings that it needs."""
    text = files("slipway_memory").joinpath("search_query.sql").read_text()
    statement = text.format(vectors=f"chunk_embedding_{SIZE}", dimensions=SIZE)

    async def ask(question: str, vector: list[float]) -> Any:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "SET LOCAL hnsw.iterative_scan = relaxed_order; SET LOCAL hnsw.ef_search = 200;"
                " SET LOCAL hnsw.max_scan_tuples = 200000; SET LOCAL enable_sort = off"
            )
            return await connection.fetch(
                statement, "col", principals(_CALLER), "{}", vector_text(vector), question, ALPHA, LIMIT, 100
            )

    return ask


def raw_weaviate(index: Any) -> Callable[[str, list[float]], Awaitable[Any]]:
    """The client alone, which hands out the passages' text itself."""
    from slipway_memory.vectors.weaviate_schema import WORDS, visible
    from weaviate.classes.query import HybridFusion, MetadataQuery

    passages = index.connection.client.collections.use(index.homes.alias(SIZE)).with_tenant("acme")

    async def ask(question: str, vector: list[float]) -> Any:
        return await passages.query.hybrid(
            query=question,
            vector=vector,
            alpha=ALPHA,
            fusion_type=HybridFusion.RELATIVE_SCORE,
            query_properties=WORDS,
            filters=visible("col", principals(_CALLER), {}),
            limit=LIMIT,
            return_metadata=MetadataQuery(score=True),
            return_properties=["version_id", "ordinal", "text"],
        )

    return ask


async def measure(store: str, corpus: Corpus, url: str, database_url: str, policies: Path) -> dict[str, Any]:
    """Fills the store and asks it every question both ways, in turns."""
    pool = await open_pool(database_url)
    await migrate(pool, "slipway_memory", chassis=("outbox", "idempotency", "effects", "subject_keys"))
    keys = SubjectKeys(pool, base64.b64encode(bytes(32)).decode())
    outbox = Outbox(pool, _NOTHING, keys)
    database = Database(pool, outbox, Evidence("memory", outbox))
    index: Any = await open_index(url, database, lease_seconds=600)
    if not await pool.fetchval("SELECT EXISTS (SELECT FROM chunk)"):
        await fill(pool, corpus)
    if url:
        indexer = Indexer(IndexingStore(database, lease_seconds=600), index, _NOTHING, patience=0)
        for row in await pool.fetch("SELECT version_id FROM document_version"):
            body = json.dumps({"version_id": row["version_id"]}).encode()
            await indexer.handle(Message("m", "memory.ingest", body), 1)
        await pool.execute("ANALYZE")
    known: Any = Known(corpus)
    collections = Collections(KnowledgeStore(database), PolicyEngine(policies), known)
    search = Search(database, collections, index, known, EffectLedger(pool, keys))
    raw = raw_weaviate(index) if url else raw_postgres(pool)

    async def through_memory(text: str) -> None:
        await search.search(_CALLER, SearchQuery("handbook", text, LIMIT, ALPHA, {}, None), None)

    ours: list[float] = []
    bare: list[float] = []
    for turn, (text, vector) in enumerate(corpus.questions[:10] + corpus.questions):
        for which in ("ours", "bare") if turn % 2 else ("bare", "ours"):
            began = time.perf_counter()
            await (through_memory(text) if which == "ours" else raw(text, vector))
            if turn >= 10:
                (ours if which == "ours" else bare).append(time.perf_counter() - began)
    await index.close()
    await close_pool(pool)
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    return {
        "bench": "hybrid_search",
        "store": store,
        "chunks": len(corpus.texts),
        "questions": len(ours),
        "memory_ms": round(1000 * statistics.median(ours), 2),
        "raw_ms": round(1000 * statistics.median(bare), 2),
        "ratio": round(statistics.median(ratios), 2),
        "target": "<= 1.3",
    }


async def main(chunks: int, questions: int, stores: list[str], database: str, vectors: str) -> None:
    """One store after the other, each with a database of its own; or those over the database that is given."""
    policies = Path(__file__).parents[1] / "k8s" / "policies"
    corpus = Corpus(chunks, questions)
    if database:
        for store, url in {"pgvector": "", "weaviate": vectors}.items():
            if store in stores and (url or store == "pgvector"):
                print(json.dumps(await measure(store, corpus, url, database, policies)), flush=True)
        return
    with embedded_postgres() as postgres:
        if "pgvector" in stores:
            print(json.dumps(await measure("pgvector", corpus, "", postgres.create_database(), policies)), flush=True)
        if "weaviate" in stores:
            with weaviate() as server:
                url = server.url("Bench")
                print(json.dumps(await measure("weaviate", corpus, url, postgres.create_database(), policies)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--store", choices=["pgvector", "weaviate"], action="append")
    parser.add_argument("--database", default="", help="postgresql:// URL of an empty database, or of the last run's")
    parser.add_argument("--vectors", default="", help="weaviate:// URL that goes with it")
    given = parser.parse_args()
    stores = given.store or ["pgvector", "weaviate"]
    asyncio.run(main(given.chunks, given.questions, stores, given.database, given.vectors))
