"""Demands on a request: regions, policy, capabilities, window, cost. Each fails closed, before anything is sent."""

import pytest
from google.type.money_pb2 import Money
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError


async def ok(exchange):
    await exchange.json(
        {
            "model": "scripted-1",
            "choices": [{"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 4},
        }
    )


async def broken(exchange):
    await exchange.json({}, 500)


async def vectors(exchange):
    await exchange.json({"model": "v", "data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}})


ROUTES = {
    "default": ["ok eu"],
    "us-first": ["ok us", "ok eu"],
    "eu-broken": ["broken eu", "ok us"],
    "only-us": ["ok us"],
    "vectors": ["vectors eu"],
}


@pytest.fixture(scope="module")
def provider(scripted):
    return scripted({"ok": ok, "broken": broken, "vectors": vectors}, ROUTES)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


async def refusal(call):
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.kind, caught.value.reason


async def test_a_request_without_model_and_task_takes_the_default_route(client):
    assert (await client.chat()).catalogue_model == "default.0"


async def test_a_task_chooses_its_route(client):
    assert (await client.chat(task="task-us-first")).catalogue_model == "us-first.0"


async def test_a_region_demand_leaves_out_models_elsewhere(client):
    answer = await client.chat("us-first", regions=["eu"], regions_demanded=True)
    assert answer.catalogue_model == "us-first.1"


async def test_fallback_does_not_leave_the_regions_demanded(client, provider):
    kind, reason = await refusal(client.chat("eu-broken", regions=["eu"], regions_demanded=True))
    assert (kind, reason) == (ErrorKind.UNAVAILABLE, "PROVIDER_UNAVAILABLE")
    assert provider.seen("eu-broken", 1) == []


@pytest.mark.parametrize(
    ("regions", "demanded"),
    [([], True), (["mars"], True), (["eu", "mars"], True), (["EU"], True), (["mars"], False)],
    ids=["empty", "unknown", "one unknown", "another case", "flag lost"],
)
async def test_an_empty_or_unknown_region_demand_is_refused(client, regions, demanded):
    answer = client.chat("us-first", regions=regions, regions_demanded=demanded)
    assert await refusal(answer) == (ErrorKind.INVALID_ARGUMENT, "REGIONS_INVALID")


async def test_a_demand_that_no_model_meets_is_refused_and_booked(client, provider):
    answer = client.chat("only-us", regions=["eu"], regions_demanded=True, request_id="no-region")
    assert await refusal(answer) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_IN_REGION")
    assert provider.seen("only-us") == []
    (row,) = await client.usage("no-region")
    assert (row.outcome, row.attempts, row.usage.input_tokens) == ("NO_MODEL_IN_REGION", 0, 0)


async def test_a_model_named_directly_is_held_to_the_regions_as_well(client):
    answer = client.chat("only-us.0", regions=["ch"], regions_demanded=True)
    assert await refusal(answer) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_IN_REGION")


async def test_embeddings_are_held_to_the_regions(client):
    request = pb.CreateEmbeddingsRequest(model="vectors", inputs=["a"], regions=["us"], regions_demanded=True)
    assert await refusal(client.call("CreateEmbeddings", request)) == (
        ErrorKind.FAILED_PRECONDITION,
        "NO_MODEL_IN_REGION",
    )


async def test_a_caller_whom_policy_does_not_let_use_models_is_denied(provider, connect_to):
    nobody = connect_to(provider.router, subject="erin", roles=[])
    assert await refusal(nobody.chat()) == (ErrorKind.PERMISSION_DENIED, "POLICY_DENIED")
    listed = await nobody.call("ListModels", pb.ListModelsRequest())
    assert list(listed.models) == []
    assert await refusal(nobody.usage()) == (ErrorKind.PERMISSION_DENIED, "POLICY_DENIED")


async def test_a_conversation_beyond_the_window_is_refused(client, provider):
    before = len(provider.seen("default"))
    assert await refusal(client.chat(text="word " * 2000)) == (ErrorKind.INVALID_ARGUMENT, "CONTEXT_TOO_LONG")
    assert len(provider.seen("default")) == before


async def test_a_capability_that_no_model_has_is_refused(client):
    parts = '[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]'
    answer = client.chat(messages=[pb.ChatMessage(role="user", content_parts_json=parts)])
    assert await refusal(answer) == (ErrorKind.FAILED_PRECONDITION, "CAPABILITY_MISSING")


async def test_a_cost_ceiling_below_the_dearest_outcome_is_refused(client):
    # At most 13 + 8 tokens in and 100 reasoning tokens out: 0.002013 dollars or less.
    answer = await client.chat(text="five!", max_cost=Money(currency_code="USD", nanos=2_020_000))
    assert answer.message.content == "fine"
    answer = client.chat(text="five!", max_cost=Money(currency_code="USD", nanos=2_000_000))
    assert await refusal(answer) == (ErrorKind.FAILED_PRECONDITION, "MAX_COST_EXCEEDED")
    with pytest.raises(SlipwayError, match=r"more than 0$"):
        await client.chat(text="five!", max_cost=Money(currency_code="USD"))


async def test_a_cost_ceiling_is_met_by_asking_for_a_shorter_answer(client):
    ceiling = Money(currency_code="USD", nanos=500_000)
    assert (await client.chat(text="five!", max_cost=ceiling, max_tokens=10)).message.content == "fine"


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"model": "nowhere"}, "MODEL_UNKNOWN", "chat.model"),
        ({"task": "nothing"}, "TASK_UNKNOWN", "chat.task"),
        ({"model": "vectors"}, "MODEL_KIND_WRONG", "chat.model"),
        ({"messages": []}, "INVALID_ARGUMENT", "chat.messages"),
        ({"messages": [pb.ChatMessage(role="king", content="x")]}, "INVALID_ARGUMENT", "chat.messages[0].role"),
        ({"messages": [pb.ChatMessage(role="user")]}, "INVALID_ARGUMENT", "chat.messages[0].content"),
        ({"max_tokens": 0}, "INVALID_ARGUMENT", "chat.max_tokens"),
        ({"temperature": 2.5}, "INVALID_ARGUMENT", "chat.temperature"),
        ({"temperature": float("nan")}, "INVALID_ARGUMENT", "chat.temperature"),
        ({"tools_json": "{"}, "INVALID_ARGUMENT", "chat.tools_json"),
        ({"tools_json": "[1]"}, "INVALID_ARGUMENT", "chat.tools_json"),
        ({"extra_json": '{"model": "x"}'}, "INVALID_ARGUMENT", "chat.extra_json"),
        ({"extra_json": '{"x": NaN}'}, "INVALID_ARGUMENT", "chat.extra_json"),
        ({"extra_json": '{"n": 2}'}, "INVALID_ARGUMENT", "chat.extra_json.n"),
        ({"max_cost": Money(currency_code="EUR", units=1)}, "INVALID_ARGUMENT", "chat.max_cost.currency_code"),
        ({"labels": {f"l{n}": "x" for n in range(17)}}, "INVALID_ARGUMENT", "chat.labels"),
        ({"labels": {"l": "x" * 513}}, "INVALID_ARGUMENT", "chat.labels[l]"),
        ({"request_id": "r" * 129}, "INVALID_ARGUMENT", "chat.request_id"),
        ({"stop": ["a"] * 5}, "INVALID_ARGUMENT", "chat.stop"),
    ],
)
async def test_a_wrong_request_names_its_field(client, fields, reason, field):
    with pytest.raises(SlipwayError) as caught:
        await client.chat(**fields)
    assert caught.value.reason == reason
    assert caught.value.field == field


@pytest.mark.parametrize("inputs", [[], [""], ["  "], ["a"] * 257], ids=["none", "empty", "blank", "too many"])
async def test_wrong_embedding_inputs_are_refused(client, inputs):
    answer = client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model="vectors", inputs=inputs))
    assert (await refusal(answer))[0] is ErrorKind.INVALID_ARGUMENT


async def test_a_route_is_explained_with_reasons(client):
    chat = pb.ChatRequest(model="us-first", regions=["eu"], regions_demanded=True)
    explained = await client.call("ExplainRoute", pb.ExplainRouteRequest(chat=chat))
    assert explained.route == "us-first"
    assert explained.catalogue_digest.startswith("sha256:")
    assert [(c.model, c.eligible) for c in explained.candidates] == [("us-first.1", True), ("us-first.0", False)]
    assert "is in us" in explained.candidates[1].reason


async def test_a_caller_of_no_tenant_is_refused(provider, connect_to):
    caller = connect_to(provider.router, subject="service:memory", tenant="", roles=["service"], kind="service")
    assert await refusal(caller.chat()) == (ErrorKind.INVALID_ARGUMENT, "TENANT_REQUIRED")
