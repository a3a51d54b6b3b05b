"""Collections and documents as things that are put, listed, read and deleted."""

from __future__ import annotations

import asyncpg
import pytest
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import ErrorKind, RemoteError
from slipway_testkit.waiting import eventually


async def refusal(call) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


async def test_the_same_content_again_changes_nothing_and_is_not_embedded_again(alice, router):
    await alice.collection()
    first = await alice.add(
        "The tariff is ten euro.", filename="x.txt", readers=["role:developer"], metadata={"a": "1"}
    )
    asked = len(router.asked)
    again = await alice.put(
        b"The tariff is ten euro.", filename="x.txt", readers=["role:developer"], metadata={"a": "1"}
    )
    assert (again.created, again.document) == (False, first)
    assert len(router.asked) == asked


async def test_a_new_access_list_title_and_labels_hold_at_once_without_indexing(alice, router):
    await alice.collection()
    await alice.add("The tariff is ten euro.", filename="x.txt")
    bob = alice.as_("bob", ["operator"])
    assert await bob.search("tariff")
    asked = len(router.asked)
    put = await alice.put(
        b"The tariff is ten euro.", filename="x.txt", readers=["role:hr"], title="Tariffs", metadata={"a": "1"}
    )
    assert (put.document.state, put.document.title) == (pb.DOCUMENT_STATE_READY, "Tariffs")
    assert len(router.asked) == asked
    assert await bob.search("tariff") == []
    (found,) = await alice.as_("henry", ["operator", "hr"]).search("tariff", metadata={"a": "1"})
    assert found.title == "Tariffs"


async def test_a_new_contents_access_list_holds_when_it_is_the_one_that_is_searched(alice, router):
    await alice.collection()
    await alice.add("The secret tariff is ten euro.", readers=["role:hr"])
    bob = alice.as_("bob", ["operator"])
    router.hold_after(0)
    await alice.put(b"The public tariff is twelve euro.")
    await eventually(router.holding.is_set)
    router.free = 10  # for the searches; the held call stays held
    assert await bob.search("tariff") == []
    router.release()
    await alice.ready()
    assert [one.text for one in await bob.search("tariff")] == ["The public tariff is twelve euro."]


async def test_a_request_id_makes_a_put_happen_once(alice, audit_events):
    await alice.collection(request_id="c-1")
    first = await alice.put(b"The tariff is ten euro.", request_id="r-1")
    await alice.ready()
    await alice.add("The tariff is twelve euro.")
    again = await alice.put(b"The tariff is ten euro.", request_id="r-1")
    assert (again.created, again.document) == (first.created, first.document)
    assert [one.text for one in await alice.search("tariff")] == ["The tariff is twelve euro."]
    error = await refusal(alice.put(b"something else", request_id="r-1"))
    assert (error.reason, error.field) == ("IDEMPOTENCY_KEY_REUSED", "request_id")
    delete = pb.DeleteDocumentRequest(collection="handbook", document="doc", request_id="d-1")
    await alice.call(alice.knowledge.DeleteDocument, delete)
    await alice.call(alice.knowledge.DeleteDocument, delete)

    def recorded():
        events = [event for _, event in audit_events if event["tenant"] == alice.tenant]
        return sorted(events, key=lambda event: event["id"]) if len(events) >= 4 else None

    events = await eventually(recorded)
    assert [event["type"] for event in events] == ["collection.put", "document.put", "document.put", "document.deleted"]
    assert events[1]["resource"] == "collection/handbook/document/doc"
    assert events[1]["data"]["digest"] == first.document.digest
    assert events[1]["actor"]["subject"] == "alice"


async def test_a_deleted_document_is_gone_with_its_chunks_and_bytes(alice, memory, memory_database):
    await alice.collection()
    await alice.add("The tariff is ten euro.")
    folder = memory.objects / "documents" / alice.tenant
    assert [one.read_bytes() for one in folder.iterdir()] == [b"The tariff is ten euro."]
    await alice.call(alice.knowledge.DeleteDocument, pb.DeleteDocumentRequest(collection="handbook", document="doc"))
    assert await alice.search("tariff") == []
    assert (await refusal(alice.document())).reason == "DOCUMENT_NOT_FOUND"
    await eventually(lambda: not list(folder.iterdir()))
    connection = await asyncpg.connect(memory_database)
    for table in ("document", "document_version"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant = $1", alice.tenant) == 0
    orphans = (
        "SELECT count(*) FROM {0} t WHERE NOT EXISTS (SELECT FROM document_version v WHERE v.version_id = t.version_id)"
    )
    for table in ("chunk", "chunk_embedding"):
        assert await connection.fetchval(orphans.format(table)) == 0
    await connection.close()


async def test_only_the_bytes_of_the_version_in_use_are_kept(alice, memory):
    await alice.collection()
    for text in ("one", "two", "three"):
        await alice.add(f"The text is {text}.")
    folder = memory.objects / "documents" / alice.tenant
    await eventually(lambda: len(list(folder.iterdir())) == 1)
    assert [one.read_bytes() for one in folder.iterdir()] == [b"The text is three."]


async def test_documents_are_listed_in_pages_without_gap_or_double(alice):
    await alice.collection()
    for number in range(5):
        await alice.put(f"Text {number}.".encode(), f"doc-{number}")
    await alice.put(b"Secret.", "doc-2-secret", readers=["user:nobody"])
    bob = alice.as_("bob", ["operator"])
    names: list[str] = []
    request = pb.ListDocumentsRequest(collection="handbook", page_size=2)
    while True:
        page = await bob.call(bob.knowledge.ListDocuments, request)
        names += [one.document for one in page.documents]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert names == [f"doc-{number}" for number in range(5)]
    request = pb.ListDocumentsRequest(collection="handbook", page_token="bad")
    assert (await refusal(bob.call(bob.knowledge.ListDocuments, request))).field == "page_token"


async def test_collections_are_listed_in_pages(alice):
    for name in "dbca":
        await alice.collection(name)
    request = pb.ListCollectionsRequest(page_size=3)
    first = await alice.call(alice.knowledge.ListCollections, request)
    assert [one.collection for one in first.collections] == ["a", "b", "c"]
    request.page_token = first.next_page_token
    second = await alice.call(alice.knowledge.ListCollections, request)
    assert ([one.collection for one in second.collections], second.next_page_token) == (["d"], "")


async def test_a_collection_keeps_its_embedding_model_and_changes_what_is_said_of_it(alice, router):
    created = await alice.collection(description="first", regions=["us", "eu"])
    assert (list(created.regions), created.embedding_model) == (["eu", "us"], "minilm-l6-v2")
    asked = len(router.asked)
    changed = await alice.collection(description="second", regions=["eu"], embedding_model="minilm-l6-v2")
    assert (changed.description, list(changed.regions)) == ("second", ["eu"])
    assert changed.create_time == created.create_time
    assert len(router.asked) == asked
    error = await refusal(alice.collection(embedding_model="another"))
    assert (error.kind, error.reason) == (ErrorKind.FAILED_PRECONDITION, "EMBEDDING_MODEL_FIXED")


async def test_a_collection_whose_model_does_not_answer_is_not_created(alice):
    assert (await refusal(alice.collection(embedding_model="no-such-model"))).kind is ErrorKind.NOT_FOUND
    assert (await refusal(alice.search("x"))).reason == "COLLECTION_NOT_FOUND"


@pytest.mark.parametrize("name", ["", "Upper", "a b", "-a", "a" * 64, "ä", "a/b"])
async def test_a_wrong_name_of_a_collection_is_refused(alice, name):
    error = await refusal(alice.collection(name))
    assert (error.kind, error.field) == (ErrorKind.INVALID_ARGUMENT, "collection")


async def test_a_region_that_is_no_name_is_refused(alice):
    assert (await refusal(alice.collection(regions=["eu", ""]))).field == "regions[1]"
