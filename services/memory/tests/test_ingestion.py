"""Documents of every kind, from their bytes to passages that cite them."""

from __future__ import annotations

from slipway.memory.v1 import memory_pb2 as pb

MARKDOWN = """# Handbook

## Refunds
Customers may return goods within thirty days of delivery and get their money back.

## Shipping
Parcels leave the warehouse on the day after the order. Express parcels leave on the same day before noon.
"""


async def test_a_markdown_document_is_searchable_and_cites_its_heading(alice, router):
    await alice.collection()
    document = await alice.add(MARKDOWN, filename="handbook.md")
    assert (document.title, document.content_type) == ("Handbook", "text/markdown")
    assert document.indexed_chunk_count == document.chunk_count == 2
    best, *_ = await alice.search("how long do I have to send something back?")
    assert list(best.headings) == ["Handbook", "Refunds"]
    assert best.text.startswith("Customers may return goods within thirty days")
    assert best.document_digest == document.digest
    assert {one["sub"] for one in router.callers} == {"service:memory"}
    assert {one["tenant"] for one in router.callers} == {alice.tenant}
    collection = (
        await alice.call(alice.knowledge.GetCollection, pb.GetCollectionRequest(collection="handbook"))
    ).collection
    assert (collection.document_count, collection.chunk_count) == (1, 2)
    assert collection.embedding_model == "minilm-l6-v2"
