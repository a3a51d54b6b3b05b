"""Effects are bought once, and what was bought is in the books: rows, sums, audit events, for its own tenant only."""

import asyncio
import contextlib
import hashlib
import json
from collections import defaultdict
from decimal import Decimal

import pytest
from slipway.effects.v1.effects_pb2 import EffectKey
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.bus import open_bus
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.money import from_money, to_money

USAGE = {"prompt_tokens": 10, "completion_tokens": 4}
RUN = "run_01jd0000000000000000000000"


async def ok(exchange):
    if exchange.body.get("stream"):
        await exchange.open_stream()
        for word in ("one ", "two"):
            await exchange.delta(content=word)
        await exchange.delta("stop")
        await exchange.event({"model": "scripted-1", "choices": [], "usage": USAGE})
        await exchange.raw(b"data: [DONE]\n\n")
        return
    message = {"content": f"answer {len(exchange.body['messages'][0]['content'])}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": USAGE})


async def slow(exchange):
    await exchange.open_stream()
    for _ in range(10):
        await exchange.delta(content="word ")
        await asyncio.sleep(0.05)
    await exchange.delta("stop")


async def first_broken(exchange, calls=defaultdict(int)):  # noqa: B006 - the script's memory
    calls[exchange.body["model"]] += 1
    if calls[exchange.body["model"]] == 1:
        await exchange.json({}, 500)
    else:
        await ok(exchange)


async def vectors(exchange):
    data = [{"index": 0, "embedding": [0.6, 0.8]}]
    await exchange.json({"model": "v", "data": data, "usage": {"prompt_tokens": 3}})


ROUTES = {
    name: [script]
    for name, script in {
        "once": "ok",
        "concurrent": "slow",
        "streamed": "ok",
        "abandoned": "slow",
        "failing": "first-broken",
        "epoch": "ok",
        "vectors": "vectors",
        "sums": "ok",
        "audit": "ok",
        "reused": "ok",
    }.items()
}


@pytest.fixture(scope="module")
def provider(scripted):
    return scripted({"ok": ok, "slow": slow, "first-broken": first_broken, "vectors": vectors}, ROUTES)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


def effect(step, epoch=1, attempt=1):
    return EffectKey(key=f"{RUN}/{step}/1", epoch=epoch, attempt=attempt)


async def test_a_repeated_effect_is_answered_from_the_record_and_not_bought_twice(client, provider):
    first = await client.chat("once", effect=effect("once"))
    again = await client.chat("once", effect=effect("once", epoch=2, attempt=2))
    assert again == first
    assert len(provider.seen("once")) == 1
    rows = await client.usage(run_id=RUN, page_size=500)
    assert [row.request_id for row in rows].count(first.request_id) == 1


async def test_a_run_that_has_less_left_repeats_the_same_effect(client, provider):
    tools = '[{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]'
    ceilings = [
        {"max_cost": to_money(Decimal("0.5")), "max_tokens": 80, "run_max_cost": to_money(Decimal(2))},
        {"max_cost": to_money(Decimal("0.4")), "max_tokens": 60, "run_max_cost": to_money(Decimal(1))},
    ]
    before = len(provider.seen("once"))
    first, again = [await client.chat("once", tools_json=tools, effect=effect("less"), **own) for own in ceilings]
    assert again == first
    assert len(provider.seen("once")) == before + 1


async def test_a_repeated_embedding_is_not_bought_twice(client, provider):
    request = pb.CreateEmbeddingsRequest(model="vectors", inputs=["a"], effect=effect("vectors"))
    first = await client.call("CreateEmbeddings", request)
    again = await client.call("CreateEmbeddings", request)
    assert again == first
    assert len(provider.seen("vectors")) == 1


async def test_a_repeated_stream_is_replayed_as_one_delta(client, provider):
    first = [event async for event in client.stream("streamed", effect=effect("streamed"))]
    again = [event async for event in client.stream("streamed", effect=effect("streamed"))]
    assert len(provider.seen("streamed")) == 1
    assert [event.content_delta for event in first[1:-1]] == ["one ", "two"]
    assert [event.content_delta for event in again[1:-1]] == ["one two"]
    assert again[0] == first[0]
    assert again[-1] == first[-1]


async def test_a_stream_with_an_effect_is_bought_to_its_end_when_its_caller_dies(client, provider, eventually):
    async with contextlib.aclosing(client.stream("abandoned", effect=effect("abandoned"))) as events:
        await anext(events)
    answer = "".join([e.content_delta async for e in client.stream("abandoned", effect=effect("abandoned", epoch=2))])
    assert answer == "word " * 10
    assert len(provider.seen("abandoned")) == 1


async def test_concurrent_repetitions_share_one_purchase(client, provider):
    async def text():
        return "".join([e.content_delta async for e in client.stream("concurrent", effect=effect("concurrent"))])

    assert await asyncio.gather(text(), text(), text()) == ["word " * 10] * 3
    assert len(provider.seen("concurrent")) == 1


async def test_a_stale_epoch_is_refused(client, provider):
    await client.chat("epoch", effect=effect("epoch", epoch=5))
    with pytest.raises(SlipwayError) as caught:
        await client.chat("epoch", effect=effect("epoch", epoch=4))
    assert caught.value.reason == "STALE_EPOCH"
    assert len(provider.seen("epoch")) == 1


async def test_a_failed_effect_runs_again_only_under_a_higher_attempt(client, provider):
    for _ in range(2):
        with pytest.raises(SlipwayError) as caught:
            await client.chat("failing", effect=effect("failing"))
        assert caught.value.reason == "PROVIDER_UNAVAILABLE"
    assert len(provider.seen("failing")) == 1
    answer = await client.chat("failing", effect=effect("failing", attempt=2))
    assert answer.message.content == "answer 5"


async def test_a_key_for_another_question_is_refused(client):
    await client.chat("reused", text="one", effect=effect("reused"))
    with pytest.raises(SlipwayError) as caught:
        await client.chat("reused", text="two", effect=effect("reused"))
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.INVALID_ARGUMENT, "EFFECT_KEY_REUSED")


async def test_usage_is_summed_exactly_by_each_dimension(provider, connect_to):
    alice = connect_to(provider.router, tenant="sums")
    bob = connect_to(provider.router, subject="bob", tenant="sums", run_id=RUN)
    for _ in range(3):
        await alice.chat("sums")
    await bob.chat(task="task-sums")

    async def groups(by):
        answer = await alice.call("SummarizeUsage", pb.SummarizeUsageRequest(group_by=by))
        return {group.key: group for group in answer.groups}

    by_subject = await groups("subject")
    assert {key: group.calls for key, group in by_subject.items()} == {"alice": 3, "bob": 1}
    assert by_subject["alice"].usage.input_tokens == 30
    # 3 × (10 × 1.00 + 4 × 10) dollars a million
    assert from_money(by_subject["alice"].usage.cost) == Decimal("0.00015")
    assert set(await groups("run")) == {"", RUN}
    assert set(await groups("task")) == {"", "task-sums"}
    assert {key: group.calls for key, group in (await groups("model")).items()} == {"sums.0": 4}
    assert set(await groups("provider")) == {"eu"}
    assert len(await groups("day")) == 1
    with pytest.raises(SlipwayError) as caught:
        await groups("weather")
    assert caught.value.field == "group_by"


async def test_usage_pages_hold_each_row_once_newest_first(provider, connect_to):
    client = connect_to(provider.router, tenant="pages")
    sent = [(await client.chat("sums")).request_id for _ in range(5)]
    seen, token = [], ""
    while True:
        page = await client.call("ListUsage", pb.ListUsageRequest(page_size=2, page_token=token))
        seen += [row.request_id for row in page.rows]
        token = page.next_page_token
        if not token:
            break
    assert seen == sent[::-1]


async def test_another_tenants_usage_is_not_visible(provider, connect_to):
    mine = await connect_to(provider.router, tenant="acme").chat("sums")
    gina = connect_to(provider.router, subject="gina", tenant="globex")
    assert await gina.usage(mine.request_id) == []
    assert await gina.usage() == []
    summed = await gina.call("SummarizeUsage", pb.SummarizeUsageRequest(group_by="model"))
    assert list(summed.groups) == []
    page = await connect_to(provider.router, tenant="acme").call("ListUsage", pb.ListUsageRequest(page_size=1))
    with pytest.raises(SlipwayError) as caught:
        await gina.call("ListUsage", pb.ListUsageRequest(page_token=page.next_page_token))
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


async def test_the_same_effect_key_in_another_tenant_is_another_effect(provider, connect_to):
    await connect_to(provider.router, tenant="acme").chat("once", effect=effect("tenants"))
    before = len(provider.seen("once"))
    await connect_to(provider.router, tenant="globex").chat("once", effect=effect("tenants"))
    assert len(provider.seen("once")) == before + 1


async def test_every_call_leaves_an_audit_event_with_question_answer_and_cost(client, valkey_url):
    bus = await open_bus(valkey_url)
    found = asyncio.get_running_loop().create_future()
    answer = await client.chat("audit", text="what is it?", temperature=0.5, effect=effect("audit"))

    async def take(message, _attempt):
        body = json.loads(message.body)
        if message.id == answer.record.event_id and not found.done():
            found.set_result(body)

    consuming = asyncio.create_task(bus.consume("audit.events", "router-test", take))
    try:
        body = await asyncio.wait_for(found, 20)
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        await bus.close()
    commitment = hashlib.sha256(bytes.fromhex(body["salt"]) + body["event"].encode()).hexdigest()
    assert commitment == answer.record.commitment == body["commitment"]
    event = json.loads(body["event"])
    assert (event["type"], event["tenant"], event["subject"], event["run_id"]) == ("model.call", "acme", "alice", RUN)
    assert event["policy"]["policies"]
    data = event["data"]
    assert data["messages"] == [{"role": "user", "content": "what is it?"}]
    assert data["parameters"]["temperature"] == "0.5"
    assert data["output"] == {"content": "answer 11", "finish_reason": "stop"}
    assert (data["requested_model"], data["catalogue_model"], data["returned_model"]) == (
        "audit",
        "audit.0",
        "scripted-1",
    )
    assert data["usage"]["cost_usd"] == "0.00005"
    assert [attempt["outcome"] for attempt in data["attempts"]] == ["ok"]
