"""Answers kept for repetitions: only for tenants that asked for it, never across them, for nothing, and saying so."""

import json
from decimal import Decimal

import asyncpg
import pytest
from redis.asyncio import Redis
from slipway_chassis.money import from_money, to_money

USAGE = {"prompt_tokens": 10, "completion_tokens": 4}


async def ok(exchange):
    if exchange.body.get("stream"):
        await exchange.open_stream()
        for word in ("one ", "two"):
            await exchange.delta(content=word)
        await exchange.delta("stop")
        await exchange.event({"model": "scripted-1", "choices": [], "usage": USAGE})
        await exchange.raw(b"data: [DONE]\n\n")
        return
    choice = {"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": USAGE})


async def cut(exchange):
    choice = {"index": 0, "message": {"content": "ye"}, "finish_reason": "length"}
    await exchange.json({"model": "scripted-1", "choices": [choice], "usage": USAGE})


SCRIPTS = {"ok": ok, "cut": cut}
ROUTES = {
    name: ["cut" if name == "cut" else "ok"]
    for name in ("whole", "stream", "mixed", "off", "cut", "differs", "regions", "money", "erased", "tenants")
}


@pytest.fixture(scope="module")
def provider(scripted):
    tenants = {tenant: {"ttl_seconds": 600} for tenant in ("acme", "globex")}
    return scripted(SCRIPTS, ROUTES, file_with={"cache": tenants})


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


async def streamed(client, *args, **fields):
    return [event async for event in client.stream(*args, **fields)]


async def test_a_repeated_question_is_answered_from_the_cache_for_nothing_and_says_so(client, provider, connect_to):
    bought = await client.chat("whole")
    assert not bought.usage.cached
    kept = await connect_to(provider.router, subject="bob").chat("whole", labels={"a": "b"}, session_id="s1")
    assert (kept.message, kept.finish_reason, kept.model) == (bought.message, bought.finish_reason, bought.model)
    assert (kept.usage.cached, from_money(kept.usage.cost), kept.usage.input_tokens, kept.attempts) == (True, 0, 0, 0)
    assert kept.request_id != bought.request_id
    assert len(provider.seen("whole")) == 1
    row = (await client.usage(kept.request_id))[0]
    assert (row.subject, row.outcome, row.catalogue_model) == ("bob", "ok", "whole.0")
    assert (row.usage.cached, from_money(row.usage.cost)) == (True, 0)


async def test_a_stream_is_kept_whole_and_replayed(client, provider):
    first = await streamed(client, "stream")
    again = await streamed(client, "stream")
    assert len(provider.seen("stream")) == 1
    assert (first[0].started.cached, again[0].started.cached) == (False, True)
    assert [event.content_delta for event in again[1:-1]] == ["one two"]
    assert (again[-1].finished.finish_reason, again[-1].finished.usage.cached) == ("stop", True)


async def test_whole_and_streamed_answers_stand_for_each_other(client, provider):
    await client.chat("mixed")
    assert (await streamed(client, "mixed"))[1].content_delta == "yes"
    assert len(provider.seen("mixed")) == 1


async def test_nothing_is_kept_for_a_tenant_that_did_not_ask_for_it(provider, connect_to):
    client = connect_to(provider.router, tenant="plain")
    for _ in range(2):
        assert not (await client.chat("off")).usage.cached
    assert len(provider.seen("off")) == 2


async def test_answers_never_cross_tenants(provider, connect_to):
    for tenant in ("acme", "globex"):
        assert not (await connect_to(provider.router, tenant=tenant).chat("tenants")).usage.cached
    assert len(provider.seen("tenants")) == 2


async def test_an_answer_that_was_cut_off_is_not_kept(client, provider):
    for _ in range(2):
        assert (await client.chat("cut")).finish_reason == "length"
    assert len(provider.seen("cut")) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"text": "another"},
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"seed": 1},
        {"stop": ["x"]},
        {"extra_json": '{"presence_penalty": 1}'},
        {"response_format_json": '{"type": "text"}'},
    ],
    ids=lambda other: next(iter(other)),
)
async def test_another_question_is_bought(client, other):
    await client.chat("differs")
    assert not (await client.chat("differs", **other)).usage.cached
    assert (await client.chat("differs", **other)).usage.cached


async def test_a_ceiling_is_no_part_of_the_question(client):
    await client.chat("money")
    assert (await client.chat("money", max_cost=to_money(Decimal(1)))).usage.cached


async def test_a_demand_that_the_kept_model_does_not_meet_is_not_answered_from_the_cache(client, provider):
    await client.chat("regions")
    assert not (await client.chat("regions", regions=["eu"], regions_demanded=True)).usage.cached
    assert len(provider.seen("regions")) == 2


async def test_answers_lie_encrypted_and_are_erased_with_whom_they_were_given_to(
    client, provider, connect_to, start_router
):
    await client.chat("erased", text="a secret of alice")
    redis = Redis.from_url(provider.router.environment["SLIPWAY_ROUTER_REDIS_URL"])
    kept = [await redis.get(key) async for key in redis.scan_iter("slipway:router:answer:*")]
    await redis.aclose()
    assert kept
    assert all(b"yes" not in value for value in kept)
    url = provider.router.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    database = await asyncpg.connect(url)
    await database.execute("DELETE FROM subject_key WHERE subject = 'alice'")
    await database.close()
    # A process that does not remember her key.
    replica = start_router(provider.router.catalogue.read_text(), {"scripted": "sk-scripted-key"}, database_url=url)
    assert not (await connect_to(replica, subject="bob").chat("erased", text="a secret of alice")).usage.cached


async def test_a_changed_catalogue_empties_the_cache(client, provider, eventually):
    await client.chat("whole", text="before")
    assert (await client.chat("whole", text="before")).usage.cached
    catalogue = provider.router.catalogue
    document = json.loads(catalogue.read_text())
    catalogue.write_text(json.dumps(document))

    async def bought():
        return not (await client.chat("whole", text="before")).usage.cached

    await eventually(bought)
