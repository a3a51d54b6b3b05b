"""Recorded traffic, answered anew by another route."""

import json

import pytest
from google.type.money_pb2 import Money
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.channel import stream
from slipway_chassis.errors import ErrorKind, SlipwayError

SCHEMA = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
TOOLS = json.dumps([{"type": "function", "function": {"name": "pay", "parameters": SCHEMA}}])


def answer(text, calls=()):
    message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {"id": f"c{n}", "type": "function", "function": {"name": "pay", "arguments": call}}
            for n, call in enumerate(calls)
        ]
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    finish = "tool_calls" if calls else "stop"
    return {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


async def first(exchange):
    if "tools" in exchange.body:
        await exchange.json(answer(None, ['{"amount": 1}']))
    else:
        await exchange.json(answer("the answer is forty two"))


async def second(exchange):
    if "tools" in exchange.body:
        await exchange.json(answer(None, ['{"amount":1}']))
    else:
        await exchange.json(answer("The answer is 42."))


async def broken(exchange):
    await exchange.json({}, 500)


ROUTES = {
    "recorded": ["first eu"],
    "silent": ["first"],
    "other": ["second"],
    "broken": ["broken"],
    "far": ["second us"],
}


@pytest.fixture(scope="module")
def router(scripted):
    return scripted(
        {"first": first, "second": second, "broken": broken}, ROUTES, routes_with={"recorded": {"record_percent": 100}}
    )


@pytest.fixture
def client(router, connect_to):
    return connect_to(router.router)


async def compare(client, against, **fields):
    request = pb.CompareRoutesRequest(against=against, **fields)
    events = [event async for event in stream(client.stub.CompareRoutes, request, token=client.token, timeout=30)]
    assert [event.WhichOneof("event") for event in events] == ["call"] * (len(events) - 1) + ["summary"]
    return [event.call for event in events[:-1]], events[-1].summary


@pytest.fixture
async def recorded(client, eventually):
    """Three calls of a recorded route, the last with a tool call; one of a route that records nothing."""
    if not await client.usage("r1"):
        await client.chat("recorded", text="what is the answer?", temperature=0.5, request_id="r1")
        await client.chat("recorded", text="again", regions=["eu"], regions_demanded=True, request_id="r2")
        await client.chat("recorded", text="pay", tools_json=TOOLS, request_id="r3")
        await client.chat("silent", text="not this one")

    async def all_there():
        calls, _ = await compare(client, "broken", limit=5)
        return calls if len(calls) == 3 else None

    return await eventually(all_there)


async def test_another_route_answers_what_was_recorded(client, router, recorded):
    calls, summary = await compare(client, "other", route="recorded")
    assert [call.recorded.request_id for call in calls] == ["r3", "r2", "r1"]
    paid, _, asked = calls
    assert paid.same_tool_calls
    assert 0.5 < asked.text_similarity < 1
    assert (asked.recorded.catalogue_model, asked.replayed.catalogue_model) == ("recorded.0", "other.0")
    assert (summary.recorded.answered, summary.replayed.answered, summary.replayed.failed) == (3, 3, 0)
    assert summary.replayed.usage.input_tokens == 300
    again = router.seen("other")[-1].body
    assert (again["messages"], again["temperature"]) == ([{"role": "user", "content": "what is the answer?"}], 0.5)


async def test_a_replay_stays_within_the_regions_that_the_request_demanded(client, router, recorded):
    calls, _ = await compare(client, "far")
    outcomes = {call.recorded.request_id: call.replayed.outcome for call in calls}
    assert outcomes == {"r1": "ok", "r2": "NO_MODEL_IN_REGION", "r3": "ok"}


async def test_replays_are_calls_of_whoever_compares_and_are_not_recorded_again(client, recorded):
    calls, _ = await compare(client, "recorded", limit=1)
    (row,) = await client.usage(calls[0].replayed.request_id)
    assert (row.subject, row.labels["replay_of"], row.usage.input_tokens) == ("alice", "r3", 100)
    assert len((await compare(client, "other", limit=100))[0]) == 3


async def test_a_failed_replay_is_told_as_such(client, recorded):
    assert {call.replayed.outcome for call in recorded} <= {"PROVIDER_UNAVAILABLE", "MODELS_COOLING_DOWN"}


async def test_a_comparison_ends_at_its_ceiling(client, recorded):
    # A replay may cost 100 output tokens at 20 dollars a million and more.
    calls, summary = await compare(client, "other", max_cost=Money(currency_code="USD", nanos=1_000_000))
    assert calls == []
    assert "leaves no room" in summary.note


async def test_other_tenants_and_strangers_see_nothing(client, router, connect_to, recorded):
    gina = connect_to(router.router, subject="gina", tenant="globex")
    calls, summary = await compare(gina, "other")
    assert calls == []
    assert "nothing is recorded" in summary.note
    nobody = connect_to(router.router, subject="erin", roles=[])
    with pytest.raises(SlipwayError) as caught:
        await compare(nobody, "other")
    assert caught.value.kind is ErrorKind.PERMISSION_DENIED


async def test_wrong_comparisons_name_their_field(client):
    for fields, field in (
        ({"against": "nowhere"}, "against"),
        ({"against": "other", "limit": 501}, "limit"),
        ({"against": "other", "max_cost": Money(currency_code="USD")}, "max_cost"),
    ):
        with pytest.raises(SlipwayError) as caught:
            await compare(client, **fields)
        assert caught.value.field == field
