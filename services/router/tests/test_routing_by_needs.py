"""Routing by what the caller states, through a running router: policies, tenants' rules, sessions, the classifier."""

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError

QUESTIONS = {"bill": [1.0, 0.0], "poem": [0.0, 1.0], "weather": [0.6, -0.8]}


def completion(text):
    message = {"role": "assistant", "content": text}
    return {
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4},
    }


async def ok(exchange):
    await exchange.json(completion("fine"))


async def slow(exchange):
    await asyncio.sleep(0.3)
    await exchange.json(completion("fine, at last"))


async def broken(exchange):
    await exchange.json({}, 500)


async def vectors(exchange):
    def vector(text):
        return next((numbers for word, numbers in QUESTIONS.items() if word in text), [0.0, -1.0])

    data = [{"index": n, "embedding": vector(text)} for n, text in enumerate(exchange.body["input"])]
    await exchange.json({"model": "v", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}})


ROUTES = {
    "default": ["ok eu"],
    "billing": ["ok eu"],
    "poetry": ["ok eu"],
    "embed": ["vectors us"],
    "cheapest": ["ok eu", "ok eu"],
    "fastest": ["slow eu", "ok eu"],
    "eu-down": ["broken eu", "broken eu", "ok us"],
    "quality": ["ok eu", "ok eu"],
    "personal": ["ok us", "ok eu"],
    "split": ["ok eu", "ok eu"],
}
FILE_WITH = {
    "data_classes": ["personal"],
    "residency": [{"tenant": "umbrella", "regions": ["eu"], "data_classes": ["personal"]}],
    "classifier": {
        "model": "embed.0",
        "minimum_similarity": 0.7,
        "timeout_seconds": 30,
        "examples": {"task-billing": ["my bill is wrong"], "task-poetry": ["write a poem", "a poem, please"]},
    },
}
MODELS_WITH = {
    "cheapest.1": {"price": {"input": "0.1", "output": "1"}},
    "quality.1": {"quality": "premium"},
}
ROUTES_WITH = {
    "cheapest": {"policy": "cheapest"},
    "fastest": {"policy": "fastest"},
    "split": {"policy": "split", "shares": {"split.0": 50, "split.1": 50}},
}


@pytest.fixture(scope="module")
def provider(scripted):
    scripts = {"ok": ok, "slow": slow, "broken": broken, "vectors": vectors}
    return scripted(scripts, ROUTES, models_with=MODELS_WITH, routes_with=ROUTES_WITH, file_with=FILE_WITH)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


async def refusal(call):
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.kind, caught.value.reason


async def explain(client, **fields):
    request = pb.ExplainRouteRequest(chat=pb.ChatRequest(**fields))
    return await client.call("ExplainRoute", request)


async def test_the_cheapest_candidate_is_tried_first_and_the_record_says_why(client):
    answer = await client.chat("cheapest", request_id="why-cheap")
    assert answer.catalogue_model == "cheapest.1"
    assert (answer.routing.route, answer.routing.task) == ("cheapest", "")
    sent = await client.call("GetRouteDecision", pb.GetRouteDecisionRequest(request_id="why-cheap"))
    assert (sent.decision.policy, sent.outcome) == ("cheapest", "ok")
    first, second = sent.decision.candidates
    assert (first.model, second.model) == ("cheapest.1", "cheapest.0")
    assert first.score > second.score
    assert [(attempt.model, attempt.outcome) for attempt in sent.attempts] == [("cheapest.1", "ok")]


async def test_decisions_of_other_tenants_do_not_exist(client, provider, connect_to):
    await client.chat("cheapest", request_id="not-yours")
    gina = connect_to(provider.router, subject="gina", tenant="globex")
    call = gina.call("GetRouteDecision", pb.GetRouteDecisionRequest(request_id="not-yours"))
    assert await refusal(call) == (ErrorKind.NOT_FOUND, "DECISION_NOT_FOUND")


async def test_a_slow_model_is_measured_and_then_left_for_the_faster_one(client, eventually):
    assert (await client.chat("fastest")).catalogue_model == "fastest.0"

    async def measured():
        explained = await explain(client, model="fastest")
        slow = next(one for one in explained.candidates if one.model == "fastest.0")
        return explained if slow.HasField("latency") else None

    explained = await eventually(measured)
    assert [one.model for one in explained.candidates] == ["fastest.1", "fastest.0"]
    assert (await client.chat("fastest")).catalogue_model == "fastest.1"
    goal = Duration(nanos=150_000_000)
    left_out = (await explain(client, model="fastest", max_latency=goal)).candidates[-1]
    assert (left_out.model, left_out.hurdle) == ("fastest.0", "latency")
    call = client.chat("fastest.0", max_latency=goal)
    assert await refusal(call) == (ErrorKind.FAILED_PRECONDITION, "MAX_LATENCY_EXCEEDED")
    listed = await client.call("ListModels", pb.ListModelsRequest(page_size=200))
    entry = next(entry for entry in listed.models if entry.name == "fastest.0")
    assert entry.latency.ToMilliseconds() >= 300
    assert entry.measured_attempts == 1


async def test_a_quality_demanded_is_a_lower_bound(client):
    assert (await client.chat("quality")).catalogue_model == "quality.0"
    assert (await client.chat("quality", quality="premium")).catalogue_model == "quality.1"
    call = client.chat("quality.0", quality="standard")
    assert await refusal(call) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_OF_QUALITY")


async def test_capabilities_can_be_demanded_beside_what_the_request_needs(client):
    assert (await client.chat("quality", capabilities=["tools"])).catalogue_model == "quality.0"
    call = client.chat("quality", capabilities=["images"])
    assert await refusal(call) == (ErrorKind.FAILED_PRECONDITION, "CAPABILITY_MISSING")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"quality": "best"}, "chat.quality"),
        ({"capabilities": ["flying"]}, "chat.capabilities"),
        ({"max_latency": Duration()}, "chat.max_latency"),
        ({"data_classes": ["secret"]}, "chat.data_classes"),
        (
            {"messages": [pb.ChatMessage(role="user", content_parts_json='[{"type":"hologram"}]')]},
            "chat.messages[0].content_parts_json",
        ),
    ],
)
async def test_a_demand_that_nobody_knows_names_its_field(client, fields, field):
    with pytest.raises(SlipwayError) as caught:
        await client.chat("quality", **fields)
    assert (caught.value.kind, caught.value.field) == (ErrorKind.INVALID_ARGUMENT, field)


async def test_data_of_a_class_goes_to_models_declared_for_it_only(client):
    # No provider here is declared for personal data.
    call = client.chat("personal", data_classes=["personal"], request_id="personal")
    assert await refusal(call) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_FOR_DATA_CLASS")
    (row,) = await client.usage("personal")
    assert (row.outcome, row.attempts) == ("NO_MODEL_FOR_DATA_CLASS", 0)


async def test_with_every_allowed_provider_down_nothing_leaves_the_region(client, provider):
    for _ in range(4):
        call = client.chat("eu-down", regions=["eu"], regions_demanded=True)
        assert (await refusal(call))[1] in ("PROVIDER_UNAVAILABLE", "MODELS_COOLING_DOWN")
    assert provider.seen("eu-down", 2) == []
    # The same for a tenant whose rule demands it, whatever the request says.
    assert (await client.chat("eu-down")).catalogue_model == "eu-down.2"


async def test_a_tenants_rule_holds_on_every_hop_of_every_request(provider, connect_to):
    client = connect_to(provider.router, subject="uma", tenant="umbrella")
    assert await refusal(client.chat("eu-down")) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_FOR_DATA_CLASS")
    call = client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model="embed", inputs=["a"]))
    assert await refusal(call) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_IN_REGION")
    call = client.chat("quality", regions=["us"], regions_demanded=True, request_id="umbrella-us")
    assert await refusal(call) == (ErrorKind.FAILED_PRECONDITION, "NO_MODEL_IN_REGION")
    (row,) = await client.usage("umbrella-us")
    assert row.outcome == "NO_MODEL_IN_REGION"


async def test_sessions_stay_where_chance_put_them(client):
    for session in ("a", "b", "c", "d"):
        first = (await client.chat("split", session_id=session)).catalogue_model
        for _ in range(3):
            assert (await client.chat("split", session_id=session)).catalogue_model == first
        explained = await explain(client, model="split", session_id=session)
        assert (explained.session_model, explained.candidates[0].model) == (first, first)


async def test_the_classifier_proposes_a_task_when_none_is_stated_and_the_decision_says_so(client, provider):
    answer = await client.chat(text="Why is my bill so high?", request_id="classified")
    assert answer.catalogue_model == "billing.0"
    assert (answer.routing.route, answer.routing.task, answer.routing.task_proposed) == (
        "billing",
        "task-billing",
        True,
    )
    decision = (await client.call("GetRouteDecision", pb.GetRouteDecisionRequest(request_id="classified"))).decision
    assert (decision.task, decision.task_source, decision.task_similarity) == ("task-billing", "classified", 1.0)
    (row,) = await client.usage("classified")
    assert row.task == "task-billing"
    before = len(provider.seen("embed"))
    assert (await client.chat(text="Why is my bill so high?")).catalogue_model == "billing.0"
    assert len(provider.seen("embed")) == before, "what was asked just now is known"


async def test_the_embedding_of_the_classifier_is_on_the_bill(client):
    answer = await client.chat(text="one more poem", request_id="billed")
    assert answer.catalogue_model == "poetry.0"
    rows = await client.usage()
    assert [row.catalogue_model for row in rows[:2]] == ["poetry.0", "embed.0"]
    assert rows[1].usage.input_tokens == 5


async def test_what_is_near_to_nothing_takes_the_default_route(client):
    assert (await client.chat(text="how is the weather?")).catalogue_model == "default.0"
    explained = await explain(client, messages=[pb.ChatMessage(role="user", content="how is the weather?")])
    assert (explained.route, explained.task, explained.task_source) == ("default", "", "")
    assert "nothing is near enough: 0.6 to task-billing" in explained.classifier_note


async def test_a_task_that_is_stated_is_not_guessed_at(client, provider):
    before = len(provider.seen("embed"))
    answer = await client.chat(text="a poem about my bill", task="task-billing")
    assert (answer.catalogue_model, answer.routing.task_proposed) == ("billing.0", False)
    assert len(provider.seen("embed")) == before


async def test_the_classifier_is_held_to_the_regions_demanded(client, provider):
    before = len(provider.seen("embed"))
    answer = await client.chat(text="my bill in europe", regions=["eu"], regions_demanded=True, request_id="eu-only")
    assert answer.catalogue_model == "default.0"
    assert len(provider.seen("embed")) == before
    decision = (await client.call("GetRouteDecision", pb.GetRouteDecisionRequest(request_id="eu-only"))).decision
    assert decision.classifier_note == "the classifier could not be asked: NO_MODEL_IN_REGION"
