"""Catalogue, prices and keys change under load: no request is lost, and nothing goes on with what was taken out."""

import asyncio
import json

import pytest
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import SlipwayError


def completion(text):
    message = {"role": "assistant", "content": text}
    return {
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 0},
    }


async def ok(exchange):
    await asyncio.sleep(0.01)
    await exchange.json(completion("fine"))


async def long_stream(exchange):
    await exchange.open_stream()
    for _ in range(60):
        await exchange.delta(content="x")
        await asyncio.sleep(0.02)
    await exchange.delta("stop")


asked: list[object] = []
asked_beside_the_probe: list[int] = []


async def waits_then_answers(exchange):
    asked.append(exchange)
    if len(asked) == 1:
        await exchange.json({}, 429, "retry-after: 1\r\n")
        return
    before = len(asked)
    await asyncio.sleep(0.5)
    asked_beside_the_probe.append(len(asked) - before)
    await exchange.json(completion("back again"))


@pytest.fixture(scope="module")
def provider(serve_provider):
    with serve_provider({"ok": ok, "long-stream": long_stream, "waits": waits_then_answers}) as served:
        yield served


def document(port, *, model="first", price="1", key="secret:scripted", **more):
    models = {
        name: {
            "provider": "p",
            "upstream": upstream,
            "kind": "chat",
            "context_window": 1000,
            "max_output_tokens": 100,
            "price": {"input": price, "output": "0"},
        }
        for name, upstream in {"first": "ok@first", "second": "ok@second", **more}.items()
    }
    return {
        "version": 1,
        "regions": ["eu"],
        "providers": {
            "p": {"type": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": key, "regions": ["eu"]}
        },
        "models": models,
        "routes": {"default": {"candidates": [model]}},
    }


def write(router, content):
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    fresh = router.catalogue.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(router.catalogue)


def loads(router):
    return sum(line.get("event") == "catalogue.loaded" for line in router.process.lines)


async def in_force(router, count, eventually):
    async def loaded():
        return loads(router) >= count

    await eventually(loaded)


async def test_no_request_is_lost_while_routes_and_prices_change(start_router, provider, connect_to, eventually):
    router = start_router(json.dumps(document(provider.port), indent=1), {"scripted": "sk-scripted-key"})
    client = connect_to(router)
    stop = asyncio.Event()
    costs, failures = set(), []

    async def caller():
        while not stop.is_set():
            try:
                answer = await client.chat()
                costs.add((answer.catalogue_model, answer.usage.cost.nanos))
            except SlipwayError as error:
                failures.append(error)

    async def change():
        for number in range(6):
            model, price = ("second", "2") if number % 2 == 0 else ("first", "1")
            write(router, document(provider.port, model=model, price=price))
            await in_force(router, number + 1, eventually)

            async def paid(expected=(model, int(price) * 1_000_000)):
                return expected in costs

            await eventually(paid)
        write(router, '{"version": 1, "regions": [eu]')
        await asyncio.to_thread(router.process.wait_for, "catalogue.refused")
        stop.set()

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(caller())
        group.create_task(change())
    assert failures == []
    # Each answer was paid at the price that was in force when it was planned.
    assert costs == {("first", 1_000_000), ("second", 2_000_000)}
    refused = router.process.wait_for("catalogue.refused")
    assert "models.yaml:1:" in refused["error"]
    assert (await client.chat()).catalogue_model == "first"


async def test_a_stream_ends_as_it_began_when_its_model_is_taken_out(start_router, provider, connect_to, eventually):
    text = json.dumps(document(provider.port, streaming="long-stream@s"), indent=1)
    router = start_router(text, {"scripted": "sk-scripted-key"})
    client = connect_to(router)
    pieces = []
    async for event in client.stream("streaming"):
        if event.content_delta:
            pieces.append(event.content_delta)
        if len(pieces) == 1:
            write(router, document(provider.port))
            await in_force(router, 1, eventually)
            with pytest.raises(SlipwayError) as caught:
                await client.chat("streaming")
            assert caught.value.reason == "MODEL_UNKNOWN"
    assert pieces == ["x"] * 60


async def test_a_key_in_a_file_is_rotated_without_a_restart(start_router, provider, connect_to, tmp_path, eventually):
    key = tmp_path / "api-key"
    key.write_text("sk-old-key\n")
    router = start_router(json.dumps(document(provider.port, key=f"file:{key}"), indent=1))
    client = connect_to(router)
    await client.chat()
    assert provider.seen["ok@first"][-1].headers["authorization"] == "Bearer sk-old-key"
    # As Kubernetes does it: another file in the place of the old one.
    fresh = tmp_path / "fresh"
    fresh.write_text("sk-new-key")
    fresh.replace(key)

    async def rotated():
        await client.chat()
        return provider.seen["ok@first"][-1].headers["authorization"] == "Bearer sk-new-key"

    await eventually(rotated)
    key.write_text("two\nlines")
    refused = await asyncio.to_thread(router.process.wait_for, "catalogue.refused")
    assert "holds no key" in refused["error"]
    await client.chat()
    assert provider.seen["ok@first"][-1].headers["authorization"] == "Bearer sk-new-key"
    assert router.process.stop() == 0
    assert "sk-old-key" not in router.process.output()
    assert "sk-new-key" not in router.process.output()


async def test_a_key_comes_from_the_environment(start_router, provider, connect_to, monkeypatch):
    catalogue = json.dumps(document(provider.port, key="env:SLIPWAY_ROUTER_PROVIDER_KEY"), indent=1)
    router = start_router(catalogue, provider_key="sk-of-environment")
    await connect_to(router).chat()
    assert provider.seen["ok@first"][-1].headers["authorization"] == "Bearer sk-of-environment"


async def test_one_probe_among_all_replicas_decides_whether_a_model_is_back(
    start_router, provider, connect_to, valkey_server
):
    text = json.dumps(document(provider.port, probed="waits@probed"), indent=1)
    redis = valkey_server.new_database()
    replicas = [start_router(text, {"scripted": "sk-scripted-key"}, redis_url=redis) for _ in range(3)]
    clients = [connect_to(replica) for replica in replicas]
    with pytest.raises(SlipwayError):
        await clients[0].chat("probed")
    # All replicas know it, whoever saw it.
    for client in clients:
        with pytest.raises(SlipwayError) as caught:
            await client.chat("probed")
        assert caught.value.reason == "MODELS_COOLING_DOWN"
    assert len(asked) == 1

    async def answered(client):
        try:
            return (await client.chat("probed")).message.content
        except SlipwayError as error:
            return error.reason

    answers = []
    async with asyncio.timeout(20):
        while "back again" not in answers:
            answers = await asyncio.gather(*(answered(client) for client in clients))
    # One of that round was the probe; while it was under way nobody else was let through.
    assert asked_beside_the_probe[0] == 0
    listed = await clients[1].call("ListModels", pb.ListModelsRequest(page_size=200))
    assert next(entry.health for entry in listed.models if entry.name == "probed") in ("healthy", "half_open")
