"""Search: the right passage, for the right caller, the same each time, and on the record."""

from __future__ import annotations

import pytest
from slipway.effects.v1 import effects_pb2
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import ErrorKind, RemoteError
from slipway_testkit.waiting import eventually

HANDBOOK = """# Handbook of Northwind Bikes

## Returns
Unused bicycles can be brought back within thirty days. The price is paid back to the card that was used.

## Repairs
The workshop mends flat tyres while you wait. Broken frames take two weeks.

## Warranty
Frames are guaranteed for ten years, all other parts for two. Damage from racing is excluded.

## Deliveries
Couriers bring parcels between eight and noon. Bulky goods are carried up to the first floor.

## Gift cards
Vouchers are valid for three years and can be used in every branch. They are not exchanged for money.

## Opening hours
The shops are open from Monday to Saturday, nine to seven. On public holidays they stay shut.

## Data protection
Customer records are erased after ten years, or earlier on request, unless a law says otherwise.

## Jobs
Apprentices start in September. Send your curriculum vitae to the branch of your choice.

## Error codes
Code E-4711 means that the battery is too cold. Code E-4712 means that the motor lost its speed sensor.
"""

PARAPHRASED = {
    "How long do I have to give a bike back and get a refund?": "Returns",
    "my tube is punctured, can you fix it quickly?": "Repairs",
    "does the guarantee cover a snapped chain?": "Warranty",
    "will they bring a heavy box upstairs?": "Deliveries",
    "when do coupons expire?": "Gift cards",
    "can I come by on a Sunday evening?": "Opening hours",
    "delete everything you know about me": "Data protection",
    "I am looking for a traineeship": "Jobs",
    "display shows E-4712": "Error codes",
}


async def refusal(call) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


@pytest.fixture
async def handbook(alice):
    await alice.collection()
    await alice.add(HANDBOOK, filename="handbook.md")
    return alice


async def test_paraphrased_questions_find_the_right_section_first(handbook):
    found = {question: (await handbook.search(question))[0].headings[-1] for question in PARAPHRASED}
    wrong = {question: section for question, section in found.items() if section != PARAPHRASED[question]}
    assert not wrong


async def test_alpha_weighs_words_against_meaning(handbook):
    words = await handbook.search("E-4711", alpha=0)
    assert [one.headings[-1] for one in words] == ["Error codes"]
    assert words[0].score == pytest.approx(1)
    assert await handbook.search("automobile", alpha=0) == []
    meaning = await handbook.search("coupons", alpha=1, limit=9)
    assert len(meaning) == 9
    assert meaning[0].headings[-1] == "Gift cards"
    assert (meaning[0].score, meaning[-1].score) == (pytest.approx(1), pytest.approx(0))
    half = await handbook.search("vouchers money", alpha=0.5)
    assert half[0].headings[-1] == "Gift cards"
    assert [one.score for one in half] == sorted((one.score for one in half), reverse=True)


async def test_words_that_no_passage_has_together_are_looked_for_one_by_one(handbook):
    found = await handbook.search("apprentices and couriers", alpha=0)
    assert {one.headings[-1] for one in found} == {"Jobs", "Deliveries"}
    assert [one.headings[-1] for one in await handbook.search('"flat tyres"', alpha=0)] == ["Repairs"]


@pytest.mark.parametrize(
    "query", ["", "'; DROP TABLE chunk; --", "a & | ! ( :*", "\\", "<->", "🚲", "the of and", '"unbalanced', "x" * 4000]
)
async def test_any_text_may_be_asked_for(handbook, query):
    if query:
        assert len(await handbook.search(query, limit=3)) == 3
    else:
        assert (await refusal(handbook.search(query))).field == "query"


async def test_the_same_search_gives_the_same_passages_in_the_same_order(alice):
    await alice.collection()
    for name in "cab":
        await alice.add("# Same\nThe very same sentence.", name, filename="x.md")
    first = await alice.search("sentence")
    assert [one.document for one in first] == ["a", "b", "c"]
    assert len({one.score for one in first}) == 1
    for _ in range(3):
        assert await alice.search("sentence") == first


async def test_a_passage_shows_only_to_those_on_its_documents_access_list(alice):
    await alice.collection()
    await alice.add("Everybody may read that lunch is at noon.", "open")
    await alice.add("Salaries: the director earns a lot.", "salaries", readers=["role:hr", "user:dora"])
    await alice.add("Project Falcon is secret.", "falcon", readers=["group:falcon"])

    async def seen(client) -> set[str]:
        found = {one.document for one in await client.search("what is there to know?", limit=50)}
        listed = (
            await client.call(client.knowledge.ListDocuments, pb.ListDocumentsRequest(collection="handbook"))
        ).documents
        assert found | {"salaries", "falcon"} == {one.document for one in listed} | {"salaries", "falcon"}
        return found

    reader = ["operator"]
    assert await seen(alice.as_("bob", reader)) == {"open"}
    assert await seen(alice.as_("dora", reader)) == {"open", "salaries"}
    assert await seen(alice.as_("henry", [*reader, "hr"])) == {"open", "salaries"}
    assert await seen(alice.as_("fay", reader, groups=["falcon"])) == {"open", "falcon"}
    # Whoever put a document sees that it is there, and still not what is in it.
    assert await seen(alice) == {"open"}
    assert (await alice.document("salaries")).state == pb.DOCUMENT_STATE_READY
    assert (await refusal(alice.as_("bob", reader).document("salaries"))).reason == "DOCUMENT_NOT_FOUND"
    error = await refusal(alice.as_("bob", ["developer"]).put(b"mine now", "salaries"))
    assert (error.kind, error.reason) == (ErrorKind.PERMISSION_DENIED, "DOCUMENT_ACCESS_DENIED")
    deletion = pb.DeleteDocumentRequest(collection="handbook", document="salaries")
    bob = alice.as_("bob", ["developer"])
    assert (await refusal(bob.call(bob.knowledge.DeleteDocument, deletion))).reason == "DOCUMENT_NOT_FOUND"


async def test_another_tenants_collection_is_not_found_whatever_is_asked_of_it(handbook):
    gina = handbook.as_("gina", ["developer", "operator", "platform-admin"], tenant=f"{handbook.tenant}x")
    knowledge = gina.knowledge
    name = {"collection": "handbook"}
    calls = [
        gina.search("returns"),
        gina.put(b"text", "doc"),
        gina.document(),
        gina.call(knowledge.GetCollection, pb.GetCollectionRequest(**name)),
        gina.call(knowledge.ListDocuments, pb.ListDocumentsRequest(**name)),
        gina.call(knowledge.DeleteDocument, pb.DeleteDocumentRequest(**name, document="doc")),
    ]
    for call in calls:
        error = await refusal(call)
        assert (error.kind, error.reason) == (ErrorKind.NOT_FOUND, "COLLECTION_NOT_FOUND")
    assert not (await gina.call(knowledge.ListCollections, pb.ListCollectionsRequest())).collections
    # A collection of the same name is another one.
    await gina.collection()
    assert await gina.search("returns") == []
    assert (await handbook.search("returns"))[0].headings[-1] == "Returns"


async def test_policy_decides_who_may_read_and_write_a_collection(handbook):
    erin = handbook.as_("erin")
    for call in (erin.search("x"), erin.document(), erin.put(b"x")):
        error = await refusal(call)
        assert (error.kind, error.reason) == (ErrorKind.PERMISSION_DENIED, "POLICY_DENIED")
    assert not (await erin.call(erin.knowledge.ListCollections, pb.ListCollectionsRequest())).collections
    operator = handbook.as_("oscar", ["operator"])
    assert await operator.search("returns")
    assert (await refusal(operator.put(b"x"))).reason == "POLICY_DENIED"
    agent = handbook.as_("alice", ["developer"], act="refund-desk@3")
    assert await agent.search("returns")
    assert (await refusal(agent.collection("another"))).reason == "POLICY_DENIED"


async def test_labels_narrow_a_search(alice):
    await alice.collection()
    await alice.add("The tariff is ten euro.", "old", metadata={"year": "2025", "lang": "en"})
    await alice.add("The tariff is twelve euro.", "new", metadata={"year": "2026", "lang": "en"})
    assert [one.document for one in await alice.search("tariff", metadata={"year": "2025"})] == ["old"]
    assert {one.document for one in await alice.search("tariff", metadata={"lang": "en"})} == {"old", "new"}
    assert await alice.search("tariff", metadata={"year": "2025", "lang": "de"}) == []


@pytest.mark.parametrize(
    ("held", "demanded", "allowed"),
    [
        (["eu"], ["eu"], True),
        (["eu"], ["eu", "us"], True),
        (["eu", "us"], ["eu"], False),
        (["us"], ["eu"], False),
        (["eu"], [], False),
        ([], ["eu"], False),
    ],
)
async def test_a_demand_for_regions_is_met_wholly_or_refused(alice, router, held, demanded, allowed):
    await alice.collection(regions=held)
    await alice.add("The tariff is ten euro.")
    ingested = router.asked[-1]
    assert (list(ingested.regions), ingested.regions_demanded) == (held, bool(held))
    router.asked.clear()
    search = alice.search("tariff", regions=demanded, regions_demanded=True)
    if allowed:
        assert await search
        assert (list(router.asked[-1].regions), router.asked[-1].regions_demanded) == (demanded, True)
    else:
        error = await refusal(search)
        assert (error.kind, error.reason, error.field) == (ErrorKind.INVALID_ARGUMENT, "REGION_NOT_ALLOWED", "regions")
        assert not router.asked
    assert await alice.search("tariff")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": "x" * 4001}, "query"),
        ({"limit": 51}, "limit"),
        ({"limit": -1}, "limit"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
    ],
    ids=str,
)
async def test_a_wrong_question_names_the_field(handbook, fields, field):
    error = await refusal(handbook.search(**{"query": "x", **fields}))
    assert (error.kind, error.field) == (ErrorKind.INVALID_ARGUMENT, field)


async def test_a_runs_retrieval_happens_once_and_is_recorded_with_what_it_found(handbook, router, audit_events):
    run = "run_01jd0000000000000000000000"
    agent = handbook.as_("alice", ["developer"], act="refund-desk@3", run_id=run)

    def request(epoch: int = 4, query: str = "give a bike back") -> pb.SearchCollectionRequest:
        effect = effects_pb2.EffectKey(key=f"{run}/policy/1", epoch=epoch, attempt=1, root_run_id=run)
        return pb.SearchCollectionRequest(collection="handbook", query=query, limit=2, effect=effect)

    first = await agent.call(agent.knowledge.SearchCollection, request())
    assert (router.asked[-1].effect.key, router.asked[-1].effect.root_run_id) == (f"{run}/policy/1/embedding", run)
    assert first.record.event_id.startswith("aev_")
    asked = len(router.asked)
    assert await agent.call(agent.knowledge.SearchCollection, request(epoch=5)) == first
    assert len(router.asked) == asked
    assert (await refusal(agent.call(agent.knowledge.SearchCollection, request(epoch=3)))).reason == "STALE_EPOCH"
    other = request(epoch=5, query="something else")
    assert (await refusal(agent.call(agent.knowledge.SearchCollection, other))).reason == "EFFECT_KEY_REUSED"

    def recorded():
        return [(m, e) for m, e in audit_events if e["type"] == "retrieval" and e["tenant"] == handbook.tenant]

    ((message, event),) = await eventually(recorded)
    assert (message.id, message.headers["commitment"]) == (first.record.event_id, first.record.commitment)
    assert (event["run_id"], event["actor"]["act"], event["subject"]) == (run, "refund-desk@3", "alice")
    assert event["resource"] == "collection/handbook"
    assert event["data"]["query"] == "give a bike back"
    assert event["policy"]["policies"] == ["developer-builds"]
    document = await handbook.document()
    assert event["data"]["passages"] == [
        {
            "id": one.passage_id,
            "document": "doc",
            "document_digest": document.digest,
            "score": f"{one.score:.6f}",
        }
        for one in first.passages
    ]


async def test_while_the_router_is_away_a_search_says_so(handbook, router):
    import grpc

    router.refusal = (grpc.StatusCode.UNAVAILABLE, "down")
    assert (await refusal(handbook.search("returns"))).kind is ErrorKind.UNAVAILABLE
    router.refusal = None
    assert await handbook.search("returns")


async def test_searches_are_measured(handbook, metric):
    before = metric('slipway_memory_search_seconds_count{stage="query"}')
    await handbook.search("returns")
    assert metric('slipway_memory_search_seconds_count{stage="query"}') == before + 1
