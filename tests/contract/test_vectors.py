"""One suite over both indexes of passages: pgvector in the service's database, and Weaviate."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from slipway_chassis.bus import Message
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.ids import new_id
from slipway_chassis.outbox import Outbox
from slipway_chassis.postgres import migrate, open_pool
from slipway_memory.embedding import Embedded
from slipway_memory.errors import VectorStoreRefused, VectorStoreUnavailable
from slipway_memory.indexing import Indexer
from slipway_memory.indexing_store import IndexingStore
from slipway_memory.knowledge import Collection, DocumentDescription, Passage
from slipway_memory.parsing.sandbox import DocumentHead, ParsedChunk
from slipway_memory.store import KnowledgeStore, NewVersion
from slipway_memory.transactions import Database
from slipway_memory.vectors.index import PassageIndex
from slipway_memory.vectors.opening import check_owner, open_index
from slipway_testkit.servers.process import free_port
from slipway_testkit.servers.weaviate import WeaviateServer
from slipway_testkit.waiting import eventually

SIZE = 64
NOW = datetime.now(UTC)
SYNONYMS = {"bike": "bicycle", "bikes": "bicycle", "bicycles": "bicycle", "refund": "money"}


def vector_of(text: str) -> list[float]:
    """A bag of words in 64 dimensions; synonyms are one word."""
    vector = [0.001] * SIZE
    for word in re.findall(r"\w+", text.lower()):
        vector[hashlib.sha256(SYNONYMS.get(word, word).encode()).digest()[0] % SIZE] += 1.0
    return vector


@dataclass
class Embedder:
    """Counts the texts that it is asked for."""

    texts: list[str] = field(default_factory=list)

    async def embed(self, tenant: str, model: str, texts: Sequence[str], **demands: Any) -> Embedded:
        self.texts += texts
        return Embedded([vector_of(text) for text in texts], model)


@dataclass
class Knowledge:
    """Documents over a database and an index, without the service around them."""

    pool: asyncpg.Pool
    database: Database
    index: PassageIndex
    embedder: Embedder

    def __post_init__(self) -> None:
        self.store = KnowledgeStore(self.database)
        self.indexing = IndexingStore(self.database, lease_seconds=60)
        self.indexer = Indexer(self.indexing, self.index, self.embedder, patience=0)

    async def collection(self, tenant: str = "acme", name: str = "handbook") -> Collection:
        async with self.database.transaction() as transaction:
            await self.store.insert_collection(
                transaction,
                tenant=tenant,
                name=name,
                description="",
                embedding_model="m",
                dimensions=SIZE,
                regions=(),
            )
        found = await self.store.collection(tenant, name)
        assert found
        return found

    async def put(self, collection: Collection, name: str, *texts: str, **fields: Any) -> str:
        """Stores a version that is not indexed yet; returns its id."""
        readers, metadata = tuple(fields.get("readers", ())), fields.get("metadata", {})
        version = NewVersion(
            version_id=new_id("dov"),
            object_key=new_id("obj"),
            owner="alice",
            description=DocumentDescription(collection.name, name, "x.md", "", "", readers, metadata, ""),
            title=name,
            head=DocumentHead("text/markdown", "", 0),
            size_bytes=1,
            digest=hashlib.sha256("".join(texts).encode()).hexdigest(),
        )
        chunks = [ParsedChunk(text, 0, len(text), (), 0, "") for text in texts]
        async with self.database.transaction() as transaction:
            replaces = await self.store.lock_document(transaction, collection.collection_id, name)
            await self.store.add_version(transaction, collection, version, chunks, replaces=replaces)
        return version.version_id

    async def add(self, collection: Collection, name: str, *texts: str, **fields: Any) -> str:
        """Stores a version and indexes it."""
        version_id = await self.put(collection, name, *texts, **fields)
        await self.deliver(version_id)
        return version_id

    async def deliver(self, version_id: str) -> None:
        """What the bus does with a version's message."""
        body = json.dumps({"version_id": version_id}).encode()
        await self.indexer.handle(Message(new_id("msg"), "memory.ingest", body), 1)

    async def deliver_all(self) -> None:
        """Delivers the messages of all versions, as if the bus had sent each once more."""
        for row in await self.pool.fetch("SELECT version_id FROM document_version"):
            await self.deliver(row["version_id"])

    async def describe(self, version_id: str, collection: Collection, readers: Sequence[str]) -> None:
        description = DocumentDescription(collection.name, "doc", "x.md", "", "", tuple(readers), {}, "")
        async with self.database.transaction() as transaction:
            await self.store.describe_version(transaction, version_id, title="doc", description=description)

    async def delete(self, collection: Collection, name: str) -> None:
        async with self.database.transaction() as transaction:
            document = await self.store.lock_document(transaction, collection.collection_id, name)
            assert document
            await self.store.delete_document(transaction, document.document_id)

    async def passages(self, collection: Collection, text: str, **fields: Any) -> list[Passage]:
        given = {"readers": ["user:alice"], "metadata": {}, "alpha": 0.5, "limit": 10, **fields}
        return await self.index.search(collection, text=text, vector=vector_of(text), **given)

    async def found(self, collection: Collection, text: str, **fields: Any) -> list[str]:
        """Names of the documents found, best first."""
        return [passage.document for passage in await self.passages(collection, text, **fields)]


async def open_knowledge(pool: asyncpg.Pool, url: str) -> Knowledge:
    bus: Any = None  # nothing is relayed here: messages are delivered by hand
    keys = SubjectKeys(pool, base64.b64encode(b"k" * 32).decode())
    evidence: Any = None
    database = Database(pool, Outbox(pool, bus, keys), evidence)
    return Knowledge(pool, database, await open_index(url, database, lease_seconds=60), Embedder())


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    pool = await open_pool(database_url)
    await migrate(pool, "slipway_memory", chassis=("outbox", "idempotency", "effects", "subject_keys"))
    yield pool
    await pool.close()


@pytest.fixture(params=["pgvector", pytest.param("weaviate", marks=pytest.mark.servers)])
async def knowledge(request: pytest.FixtureRequest, pool: asyncpg.Pool) -> AsyncIterator[Knowledge]:
    """An empty index, once per kind."""
    url = "" if request.param == "pgvector" else request.getfixturevalue("weaviate_server").new_url()
    opened = await open_knowledge(pool, url)
    yield opened
    await opened.index.close()


@pytest.fixture
async def over_weaviate(pool: asyncpg.Pool, server: WeaviateServer) -> AsyncIterator[Knowledge]:
    opened = await open_knowledge(pool, server.new_url())
    yield opened
    await opened.index.close()


@pytest.fixture
def server(weaviate_server: WeaviateServer):
    """The session's server; a test that stops it need not start it again."""
    yield weaviate_server
    weaviate_server.start_if_stopped()


async def test_nothing_is_found_before_there_is_a_document(knowledge):
    handbook = await knowledge.collection()
    assert await knowledge.found(handbook, "tariff") == []


async def test_alpha_weighs_words_against_meaning(knowledge):
    handbook = await knowledge.collection()
    await knowledge.add(handbook, "words", "The bike is mended while you wait.")
    await knowledge.add(handbook, "meaning", "Bicycles, a bicycle, bicycles.")
    await knowledge.add(handbook, "neither", "Lunch is at noon in the canteen.")
    assert await knowledge.found(handbook, "bike", alpha=0) == ["words"]
    assert (await knowledge.found(handbook, "bike", alpha=1))[:2] == ["meaning", "words"]
    assert (await knowledge.found(handbook, "bike", alpha=0.5))[0] == "words"
    best = (await knowledge.passages(handbook, "bike", alpha=1))[0]
    assert (best.score, best.text, best.title) == (pytest.approx(1), "Bicycles, a bicycle, bicycles.", "meaning")
    assert len(await knowledge.found(handbook, "bike", alpha=1, limit=2)) == 2


async def test_access_lists_and_labels_hold_before_anything_is_ranked(knowledge):
    handbook = await knowledge.collection()
    # More that the caller may not see, all of them nearer, than any index hands out candidates.
    closed = ["tariff " * 3 + str(n) for n in range(150)]
    await knowledge.add(handbook, "closed", *closed, readers=["group:board", "user:böseü"])
    await knowledge.add(handbook, "mine", "The tariff is ten euro, for a while.", readers=["user:alice", "role:x"])
    await knowledge.add(handbook, "open", "A tariff for everyone and all.", metadata={"lang": " de", "a": "=b"})
    for alpha in (0, 0.5, 1):
        assert set(await knowledge.found(handbook, "tariff", alpha=alpha)) == {"mine", "open"}
    assert await knowledge.found(handbook, "tariff", readers=["user:bob"]) == ["open"]
    assert await knowledge.found(handbook, "tariff", metadata={"a": "=b"}) == ["open"]
    assert await knowledge.found(handbook, "tariff", metadata={"lang": "de"}) == []
    assert set(await knowledge.found(handbook, "tariff", readers=["user:böseü"])) == {"closed"}


async def test_tenants_and_collections_do_not_meet(knowledge):
    first, other = await knowledge.collection("Łódź & Söhne"), await knowledge.collection("x-acme", "handbook")
    second = await knowledge.collection("Łódź & Söhne", "second")
    await knowledge.add(first, "one", "The tariff is ten euro.")
    assert await knowledge.found(other, "tariff") == []
    await knowledge.add(second, "two", "The tariff is two euro.")
    assert await knowledge.found(first, "tariff") == ["one"]
    assert await knowledge.found(second, "tariff") == ["two"]


@pytest.mark.parametrize(
    "text", ["日本語 🚲 naïve", "a & | ! ( :*", "'; DROP TABLE chunk; --", "the of and", "x" * 4000]
)
async def test_any_text_may_be_stored_and_asked_for(knowledge, text):
    handbook = await knowledge.collection()
    await knowledge.add(handbook, "doc", text, "Something else.")
    passages = await knowledge.passages(handbook, text, alpha=0.7)
    assert passages[0].text == text


async def test_a_document_is_searched_when_wholly_indexed_and_the_old_version_until_then(knowledge):
    handbook = await knowledge.collection()
    await knowledge.add(handbook, "doc", *(f"The old tariff number {n}." for n in range(70)))
    version = await knowledge.put(handbook, "doc", *(f"The new tariff number {n}." for n in range(150)))
    job = await knowledge.indexing.claim(version, "me")
    pending = await knowledge.index.pending(job, 64)
    vectors = [vector_of(chunk.text) for chunk in pending.chunks]
    # What is added twice, as when an answer was lost, is there once.
    assert await knowledge.index.add(job, pending, vectors)
    assert await knowledge.index.add(job, pending, vectors)
    half = await knowledge.passages(handbook, "tariff", limit=50)
    assert (len(half), {one.text.split()[1] for one in half}) == (50, {"old"})
    assert not await knowledge.indexing.switch(version, "me")
    await knowledge.indexing.release(version, "me")
    await knowledge.deliver(version)
    whole = await knowledge.passages(handbook, "tariff", limit=50)
    assert (len(whole), {one.text.split()[1] for one in whole}) == (50, {"new"})
    assert len(knowledge.embedder.texts) == 70 + 150 - 64


async def test_a_version_that_another_indexer_took_is_not_gone_on_with(knowledge):
    handbook = await knowledge.collection()
    version = await knowledge.put(handbook, "doc", "The tariff is ten euro.")
    job = await knowledge.indexing.claim(version, "me")
    pending = await knowledge.index.pending(job, 64)
    await knowledge.indexing.release(version, "me")
    assert await knowledge.indexing.claim(version, "another")
    assert not await knowledge.index.add(job, pending, [vector_of("x")])


async def test_an_access_list_that_is_narrowed_holds_at_once_and_a_wider_one_when_the_index_has_it(knowledge):
    handbook = await knowledge.collection()
    version = await knowledge.add(handbook, "doc", "The tariff is ten euro.")
    await knowledge.describe(version, handbook, ["user:dora"])
    assert await knowledge.found(handbook, "tariff") == []
    await knowledge.deliver(version)
    assert await knowledge.found(handbook, "tariff", readers=["user:dora"]) == ["doc"]
    await knowledge.describe(version, handbook, [])
    await knowledge.deliver(version)
    assert await knowledge.found(handbook, "tariff") == ["doc"]
    assert len(knowledge.embedder.texts) == 1, "an access list is no reason to embed anything again"


async def test_what_is_deleted_is_not_found(knowledge):
    handbook = await knowledge.collection()
    await knowledge.add(handbook, "doc", "The tariff is ten euro.")
    await knowledge.add(handbook, "kept", "The tariff stays.")
    await knowledge.delete(handbook, "doc")
    assert await knowledge.found(handbook, "tariff") == ["kept"]
    await knowledge.index.tend()
    await knowledge.delete(handbook, "kept")
    await knowledge.index.tend()
    assert await knowledge.found(handbook, "tariff") == []
    await knowledge.add(handbook, "doc", "The tariff is back.")
    assert await knowledge.found(handbook, "tariff") == ["doc"]


async def objects_of(knowledge: Knowledge, collection: Collection) -> int:
    index: Any = knowledge.index
    homes = await index.homes.ensure(SIZE)
    rows = await knowledge.pool.fetch("SELECT version_id FROM vector_version")
    counts = await index._objects.count(homes.serving, collection.tenant, [row["version_id"] for row in rows] or ["-"])
    return sum(counts.values())


@pytest.mark.servers
async def test_deleted_passages_and_tenants_leave_weaviate(over_weaviate):
    handbook = await over_weaviate.collection()
    await over_weaviate.add(handbook, "doc", *(f"Tariff {n}." for n in range(70)))
    await over_weaviate.add(handbook, "kept", "The tariff stays.")
    await over_weaviate.delete(handbook, "doc")
    assert await objects_of(over_weaviate, handbook) == 71
    await over_weaviate.index.tend()
    assert await objects_of(over_weaviate, handbook) == 1
    await over_weaviate.delete(handbook, "kept")
    await over_weaviate.index.tend()
    assert await objects_of(over_weaviate, handbook) == 0


@pytest.mark.servers
async def test_documents_follow_from_one_index_to_the_other_and_are_not_embedded_again(pool, server):
    before = await open_knowledge(pool, "")
    handbook = await before.collection()
    await before.add(handbook, "doc", "The tariff is ten euro.")
    after = await open_knowledge(pool, server.new_url())
    assert await after.index.tend() == 1
    await after.deliver_all()
    assert await after.found(handbook, "tariff") == ["doc"]
    assert after.embedder.texts == []
    await after.add(handbook, "new", "A new tariff.")
    back = await open_knowledge(pool, "")
    assert await back.index.tend() == 1
    await back.deliver_all()
    assert set(await back.found(handbook, "tariff")) == {"doc", "new"}
    await after.index.close()


@pytest.mark.servers
async def test_a_collection_of_an_older_layout_is_built_anew_and_searched_meanwhile(pool, server):
    from slipway_memory.vectors.url import weaviate_address
    from slipway_memory.vectors.weaviate_index import WeaviatePassageIndex

    url = server.new_url()
    old = await open_knowledge(pool, url)
    handbook = await old.collection()
    await old.add(handbook, "doc", "The tariff is ten euro.")
    newer = WeaviatePassageIndex(old.database, weaviate_address(url), lease_seconds=60, layout=2)
    new = Knowledge(pool, old.database, newer, Embedder())
    assert await newer.tend() == 1
    homes = await newer.homes.ensure(SIZE)
    assert homes.building
    assert await new.found(handbook, "tariff") == ["doc"]
    await new.add(handbook, "second", "A second tariff.")
    await new.deliver_all()
    await newer.tend()
    assert (await newer.homes.ensure(SIZE)).names == (homes.building,)
    assert set(await new.found(handbook, "tariff")) == set(await old.found(handbook, "tariff")) == {"doc", "second"}
    assert new.embedder.texts == ["A second tariff."]
    await old.index.close()
    await newer.close()


@pytest.mark.servers
async def test_passages_that_weaviate_does_not_take_are_sent_again_or_told(over_weaviate, monkeypatch):
    from slipway_memory.vectors import weaviate_objects

    handbook = await over_weaviate.collection()
    await over_weaviate.add(handbook, "first", "Sizes are fixed.")
    version = await over_weaviate.put(handbook, "doc", "One tariff.", "Another tariff.")
    job = await over_weaviate.indexing.claim(version, "me")
    pending = await over_weaviate.index.pending(job, 64)
    monkeypatch.setattr(weaviate_objects, "_PAUSE", 0.0)
    # One object of the batch has a vector of another size: the rest is taken, and the whole is not called done.
    with pytest.raises(VectorStoreUnavailable, match="1 of 2"):
        await over_weaviate.index.add(job, pending, [vector_of("one"), [1.0, 0.0]])
    assert not await over_weaviate.indexing.switch(version, "me")
    assert await over_weaviate.index.add(job, pending, [vector_of("one"), vector_of("another")])
    assert await over_weaviate.indexing.switch(version, "me")
    assert await over_weaviate.found(handbook, "tariff", alpha=0) == ["doc", "doc"]


@pytest.mark.servers
async def test_what_is_wrong_with_a_url_is_a_sentence(pool, server):
    for url, sentence in (
        ("http://x", "must be empty"),
        ("weaviate://", "must be weaviate://"),
        ("weaviate://hidden@h:1", "must name both ports"),
        ("weaviate://h:1?grpc_port=2&x=1", "'x' is none of"),
        ("weaviate://h:1?grpc_port=2&tls=maybe", "tls must be true or false"),
        (server.url("X", key="hidden"), "does not accept the key"),
        ("weaviate://h:1?grpc_port=1", "two ports must differ"),
        (server.url("X", grpc_port=free_port()), "not to gRPC on port"),
        (server.url("X", port=server.grpc_port, grpc_port=free_port()), "is not Weaviate|does not answer"),
    ):
        with pytest.raises(ValueError, match=sentence) as refused:
            await open_knowledge(pool, url)
        assert "hidden" not in str(refused.value)


@pytest.mark.servers
async def test_two_installations_do_not_take_one_anothers_collections(pool, new_database, server):
    url = server.new_url()
    first = await open_knowledge(pool, url)
    await first.add(await first.collection(), "doc", "The tariff is ten euro.")
    other = await open_pool(new_database())
    await migrate(other, "slipway_memory", chassis=("outbox", "idempotency", "effects", "subject_keys"))
    intruder = await open_knowledge(other, url)
    with pytest.raises(ValueError, match="belongs to another installation"):
        await check_owner(intruder.index)
    await other.close()
    await first.index.close()


@pytest.mark.servers
async def test_a_weaviate_that_is_away_is_told_in_time_and_what_was_put_meanwhile_is_found_when_it_is_back(
    over_weaviate, server
):
    handbook = await over_weaviate.collection()
    await over_weaviate.add(handbook, "before", "The tariff is ten euro.")
    await asyncio.to_thread(server.stop, crash=True)
    async with asyncio.timeout(60):
        with pytest.raises(VectorStoreUnavailable) as away:
            await over_weaviate.found(handbook, "tariff")
        assert away.value.reason == "VECTOR_STORE_UNAVAILABLE"
        with pytest.raises((VectorStoreUnavailable, VectorStoreRefused)):
            await over_weaviate.index.check()
        version = await over_weaviate.put(handbook, "meanwhile", "A tariff of the time between.")
        indexing = asyncio.create_task(over_weaviate.deliver(version))
        await asyncio.to_thread(server.start)
        await indexing

    async def searched() -> set[str]:
        await over_weaviate.deliver(version)
        return set(await over_weaviate.found(handbook, "tariff"))

    await eventually(lambda: _is(searched(), {"before", "meanwhile"}), 30)


@pytest.mark.servers
async def test_a_weaviate_that_is_killed_while_a_document_is_indexed_has_all_of_it_afterwards(over_weaviate, server):
    handbook = await over_weaviate.collection()
    version = await over_weaviate.put(handbook, "doc", *(f"The tariff number {n}." for n in range(400)))
    indexing = asyncio.create_task(over_weaviate.deliver(version))

    async def begun() -> bool:
        return await over_weaviate.pool.fetchval("SELECT indexed_chunk_count > 0 FROM document_version")

    await eventually(begun, 60)
    await asyncio.to_thread(server.stop, crash=True)
    await asyncio.to_thread(server.start)
    await indexing

    async def whole() -> set[str]:
        await over_weaviate.deliver(version)
        return set(await over_weaviate.found(handbook, "tariff"))

    await eventually(lambda: _is(whole(), {"doc"}), 60)
    assert await objects_of(over_weaviate, handbook) == 400
    assert len(over_weaviate.embedder.texts) <= 400 + 2 * 64


@pytest.mark.servers
async def test_a_weaviate_that_lost_everything_is_filled_again(over_weaviate, server):
    handbook = await over_weaviate.collection()
    await over_weaviate.add(handbook, "doc", "The tariff is ten euro.")
    await asyncio.to_thread(server.lose)
    await asyncio.to_thread(server.start)
    with pytest.raises(VectorStoreUnavailable):
        await over_weaviate.found(handbook, "tariff")

    async def filled() -> set[str]:
        await over_weaviate.index.tend()
        await over_weaviate.deliver_all()
        return set(await over_weaviate.found(handbook, "tariff"))

    await eventually(lambda: _is(filled(), {"doc"}), 30)


@pytest.mark.servers
async def test_another_name_of_collections_is_filled_and_the_one_before_is_left_alone(pool, server):
    before = await open_knowledge(pool, server.new_url())
    handbook = await before.collection()
    await before.add(handbook, "doc", "The tariff is ten euro.")
    await before.add(handbook, "gone", "An old tariff.")
    for one in await pool.fetch("SELECT home FROM vector_home"):
        # As in a restored database beside an empty Weaviate, whose last look at the old one was long ago.
        await pool.execute(
            "UPDATE vector_version SET check_time = now() - interval '1 day' WHERE home = $1", one["home"]
        )
        await before.index.connection.client.collections.delete(one["home"])
    await before.index.close()
    after = await open_knowledge(pool, server.new_url())
    assert await after.index.tend() == 2
    await after.deliver_all()
    assert set(await after.found(handbook, "tariff")) == {"doc", "gone"}
    await after.add(handbook, "new", "A new tariff.")
    await after.delete(handbook, "gone")
    assert await after.index.tend() == 1
    await pool.execute("UPDATE document_version SET indexer_until = NULL")
    assert await after.index.tend() == 0, "what the collection of the name before lacks is nobody's business"
    assert set(await after.found(handbook, "tariff")) == {"doc", "new"}
    await after.index.close()


async def _is(asked: Any, wanted: set[str]) -> bool:
    try:
        return await asked == wanted
    except VectorStoreUnavailable as error:
        raise AssertionError(str(error)) from error
