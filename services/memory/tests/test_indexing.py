"""From one version of a document to the next: whole or not at all, whatever dies or fails in between."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import grpc
import pytest
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.bus import Message, open_bus
from slipway_testkit.waiting import eventually

OLD = "\n\n".join(f"# Section {n}\nThe old tariff number {n} is ten euro." for n in range(80))
NEW = "\n\n".join(f"# Section {n}\nThe new tariff number {n} is twelve euro." for n in range(150))


async def versions_found(client) -> set[str]:
    return {passage.text.split()[1] for passage in await client.search("tariff number euro", limit=50)}


async def test_a_search_sees_the_old_version_or_the_new_and_never_both(alice, router):
    await alice.collection()
    await alice.add(OLD, filename="x.md")
    seen: list[frozenset[str]] = []
    done = asyncio.Event()

    async def keep_searching() -> None:
        while not done.is_set():
            seen.append(frozenset(await versions_found(alice)))

    searching = asyncio.create_task(keep_searching())
    await alice.put(NEW.encode(), filename="x.md")
    await alice.ready()
    await eventually(lambda: frozenset({"new"}) in seen)
    done.set()
    await searching
    switch = seen.index(frozenset({"new"}))
    assert set(seen[:switch]) == {frozenset({"old"})}
    assert set(seen[switch:]) == {frozenset({"new"})}
    assert switch > 0


async def test_progress_shows_while_a_document_is_indexed_and_the_old_content_stays(alice, router):
    await alice.collection()
    await alice.add(OLD, filename="x.md")
    router.hold_after(64)
    await alice.put(NEW.encode(), filename="x.md")

    async def half_way():
        document = await alice.document()
        return document if document.indexed_chunk_count else None

    document = await eventually(half_way)
    assert (document.state, document.indexed_chunk_count, document.chunk_count) == (pb.DOCUMENT_STATE_INDEXING, 64, 150)
    await eventually(router.holding.is_set)
    router.free = 1  # for the search; the held call stays held
    assert await versions_found(alice) == {"old"}
    router.release()
    document = await alice.ready()
    assert (document.indexed_chunk_count, document.chunk_count) == (150, 150)
    assert await versions_found(alice) == {"new"}


async def test_an_indexing_that_fails_says_why_and_keeps_the_old_content(alice, router):
    await alice.collection()
    await alice.add(OLD, filename="x.md")
    router.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "the model is gone")
    await alice.put(NEW.encode(), filename="x.md")

    async def failed():
        document = await alice.document()
        return document if document.state == pb.DOCUMENT_STATE_FAILED else None

    document = await eventually(failed)
    assert document.error.startswith("FAILED_PRECONDITION")
    router.release()
    assert await versions_found(alice) == {"old"}
    # Putting the same bytes again tries again.
    await alice.add(NEW, filename="x.md")
    assert await versions_found(alice) == {"new"}


async def test_an_embedding_model_that_is_away_for_a_while_delays_indexing_only(alice, router, metric):
    await alice.collection()
    router.refusal = (grpc.StatusCode.UNAVAILABLE, "restarting")
    await alice.put(b"The tariff is ten euro.")
    await eventually(lambda: len(router.asked) >= 3)
    assert (await alice.document()).state == pb.DOCUMENT_STATE_INDEXING
    router.release()
    await alice.ready(timeout=30)
    assert metric('slipway_memory_swept_total{what="versions_sent_again"}') >= 1


async def test_a_put_that_overtakes_another_wins(alice, router):
    await alice.collection()
    router.hold_after(0)
    await alice.put(OLD.encode(), filename="x.md")
    await eventually(router.holding.is_set)
    await alice.put(NEW.encode(), filename="x.md")
    router.release()
    await alice.ready()
    assert await versions_found(alice) == {"new"}


async def test_vectors_of_another_size_than_the_collections_fail_the_document(alice, router, monkeypatch):
    await alice.collection()
    monkeypatch.setattr(router, "model", type("Short", (), {"embed": lambda self, text: [0.6, 0.8]})())
    await alice.put(b"The tariff is ten euro.")

    async def failed():
        document = await alice.document()
        return document if document.state == pb.DOCUMENT_STATE_FAILED else None

    assert "2 dimensions instead of 384" in (await eventually(failed)).error


@pytest.mark.timeout(180)
async def test_a_process_killed_half_way_is_taken_over_by_another(
    start_memory, new_database, new_client, router, minilm
):
    database = new_database()
    settings = {"indexing_lease": 8, "embedding_timeout": 7, "sweep_interval": 0.3}
    first = start_memory(database, **settings)
    alice = new_client(first)
    await alice.collection()
    router.hold_after(64)
    await alice.put(NEW.encode(), filename="x.md")

    async def half_way():
        return (await alice.document()).indexed_chunk_count == 64

    await eventually(half_way)
    await eventually(router.holding.is_set)
    first.process.kill()
    router.release()
    second = start_memory(database, **settings, objects=first.objects)
    follower = new_client(second)
    follower = follower.as_("alice", ["developer"], tenant=alice.tenant)
    document = await follower.ready(timeout=60)
    assert (document.indexed_chunk_count, document.chunk_count) == (150, 150)
    assert await versions_found(follower) == {"new"}
    # What was embedded before the kill was not embedded again.
    texts = [text for request in router.asked for text in request.inputs]
    assert sum(text.startswith("Section 3\n") for text in texts) == 1


async def test_a_message_that_comes_twice_or_late_changes_nothing(alice, memory, memory_database, router):
    await alice.collection()
    await alice.add(OLD, filename="x.md")
    pool = await asyncpg.connect(memory_database)
    version = await pool.fetchval("SELECT version_id FROM document_version WHERE tenant = $1", alice.tenant)
    await pool.close()
    asked = len(router.asked)
    bus = await open_bus(memory.bus_url)
    for body in ({"version_id": version}, {"version_id": "dov_00000000000000000000000000"}):
        await bus.publish(Message(f"msg-{body}", "memory.ingest", json.dumps(body).encode(), alice.tenant))
    await bus.close()
    await alice.add("Another one.", "other")
    assert len(router.asked) == asked + 1
    assert await versions_found(alice) == {"old"}
