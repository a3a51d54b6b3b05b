"""A router that is killed, and one that is told to stop, in the middle of an answer."""

import asyncio
import contextlib
import os
import signal

import pytest
from slipway.effects.v1.effects_pb2 import EffectKey


async def slow(exchange):
    await exchange.open_stream()
    for _ in range(20):
        await exchange.delta(content="word ")
        await asyncio.sleep(0.05)
    await exchange.delta("stop")


def effect(epoch):
    return EffectKey(key="run_01jd0000000000000000000001/answer/1", epoch=epoch, attempt=1)


@pytest.fixture
def provider(scripted):
    return scripted({"slow": slow}, {"slow": ["slow"]}, settings={"orphan_seconds": "1"})


async def test_an_effect_whose_router_was_killed_is_repeated_by_another(provider, start_router, connect_to, eventually):
    router = provider.router
    stream = connect_to(router).stream("slow", effect=effect(1))
    async with contextlib.aclosing(stream) as events:
        assert (await anext(events)).started.catalogue_model == "slow.0"
        os.kill(router.process.pid, signal.SIGKILL)
    database = router.environment["SLIPWAY_ROUTER_DATABASE_URL"]
    catalogue = router.catalogue.read_text()
    heir = start_router(catalogue, {"scripted": "sk-scripted-key"}, database_url=database, orphan_seconds="1")
    client = connect_to(heir)
    text = "".join([event.content_delta async for event in client.stream("slow", effect=effect(2))])
    assert text == "word " * 20
    assert len(provider.seen("slow")) == 2

    async def both_are_billed():
        return sorted(row.outcome for row in await client.usage()) == ["ORPHANED", "ok"]

    await eventually(both_are_billed, timeout=30)


async def test_a_router_that_is_told_to_stop_ends_its_answers_first(provider, connect_to):
    router = provider.router
    stream = connect_to(router).stream("slow")
    async with contextlib.aclosing(stream) as events:
        await anext(events)
        os.kill(router.process.pid, signal.SIGTERM)
        rest = [event async for event in events]
    assert rest[-1].finished.finish_reason == "stop"
    assert await asyncio.to_thread(router.process.exit_code) == 0
