"""Embeddings in as many requests as the model needs, each paid once, in the order of the inputs."""

import base64
import struct
from decimal import Decimal

import pytest
from slipway.effects.v1.effects_pb2 import EffectKey
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import SlipwayError
from slipway_chassis.money import from_money

WIDTH = 1536


def answer(exchange, values):
    data = [{"index": n, "embedding": value} for n, value in enumerate(values)]
    # In any order: the index counts.
    return exchange.json({"model": "v", "data": data[::-1], "usage": {"prompt_tokens": 10 * len(data)}})


async def vectors_listed(exchange):
    await answer(exchange, [[float(text), 0.25] for text in exchange.body["input"]])


async def vectors_packed(exchange):
    values = [struct.pack(f"<{WIDTH}f", *([float(text)] * WIDTH)) for text in exchange.body["input"]]
    await answer(exchange, [base64.b64encode(value).decode() for value in values])


async def vectors_until_three(exchange):
    if "3" in exchange.body["input"]:
        await exchange.json({}, 400)
    else:
        await vectors_listed(exchange)


async def vectors_uneven(exchange):
    await answer(exchange, [[1.0] * int(text) for text in exchange.body["input"]])


async def vectors_infinite(exchange):
    await answer(exchange, [[1.0, 1e300] for _ in exchange.body["input"]])


async def vectors_of_words(exchange):
    await answer(exchange, [["one"] for _ in exchange.body["input"]])


SCRIPTS = {
    "vectors-listed": vectors_listed,
    "vectors-packed": vectors_packed,
    "vectors-until-three": vectors_until_three,
    "vectors-uneven": vectors_uneven,
    "vectors-infinite": vectors_infinite,
    "vectors-of-words": vectors_of_words,
}


@pytest.fixture(scope="module")
def provider(scripted):
    models_with = {f"{script}.0": {"max_inputs": 2} for script in SCRIPTS if script != "vectors-packed"}
    return scripted(SCRIPTS, {script: [script] for script in SCRIPTS}, models_with=models_with)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


def embed(client, model, inputs, **fields):
    return client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model=model, inputs=inputs, **fields))


async def test_inputs_beyond_what_a_request_holds_go_into_further_ones(client, provider):
    answered = await embed(client, "vectors-listed", ["1", "2", "3", "4", "5"])
    assert [list(one.values) for one in answered.embeddings] == [[float(n), 0.25] for n in range(1, 6)]
    assert [exchange.body["input"] for exchange in provider.seen("vectors-listed")] == [["1", "2"], ["3", "4"], ["5"]]
    assert (answered.usage.input_tokens, from_money(answered.usage.cost)) == (50, Decimal("0.00005"))
    assert len(await client.usage(answered.request_id)) == 1


async def test_large_answers_come_whole_and_are_recorded_for_repetitions(client, provider):
    effect = EffectKey(key="run_01jd0000000000000000000009/embed/1", epoch=1, attempt=1)
    inputs = [str(n) for n in range(200)]
    for _ in range(2):
        answered = await embed(client, "vectors-packed", inputs, effect=effect)
        assert [len(one.values) for one in answered.embeddings] == [WIDTH] * 200
        assert [one.values[7] for one in answered.embeddings] == [float(n) for n in range(200)]
    assert len(provider.seen("vectors-packed")) == 1


async def test_what_was_embedded_before_a_request_failed_is_paid(client):
    with pytest.raises(SlipwayError) as caught:
        await embed(client, "vectors-until-three", ["1", "2", "3"])
    assert caught.value.reason == "PROVIDER_REJECTED"
    row = (await client.usage())[0]
    assert (row.usage.input_tokens, from_money(row.usage.cost)) == (20, Decimal("0.00002"))


@pytest.mark.parametrize("script", ["vectors-uneven", "vectors-infinite", "vectors-of-words"])
async def test_vectors_that_are_none_are_refused(client, script):
    with pytest.raises(SlipwayError) as caught:
        await embed(client, script, ["1", "1", "2"])
    assert caught.value.reason == "PROVIDER_PROTOCOL"
