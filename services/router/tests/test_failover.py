"""Fallback over candidates, against a provider that fails in every way over real HTTP."""

import asyncio

import pytest
from google.type.money_pb2 import Money
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


def completion(text="fine", finish="stop", usage=USAGE, **message):
    return {
        "model": "scripted-1",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        ],
        "usage": usage,
    }


async def ok(exchange):
    await exchange.json(completion())


async def limited(exchange):
    await exchange.json({"error": {"message": "slow down"}}, 429, "retry-after: 30\r\n")


async def broken(exchange):
    await exchange.json({"error": {"message": "oops"}}, 500)


async def conflict(exchange):
    await exchange.json({}, 409)


async def key_refused(exchange):
    await exchange.json({"error": {"message": "Incorrect API key: sk-scripted-key"}}, 401)


async def bad_request(exchange):
    await exchange.json({"error": {"message": "temperature is wrong", "type": "invalid_request_error"}}, 400)


async def garbage(exchange):
    await exchange.text(b"<html>it works</html>")


async def empty_choices(exchange):
    await exchange.json({"choices": [], "usage": USAGE})


async def invented_finish(exchange):
    await exchange.json(completion(finish="eos"))


async def hang(exchange):
    await asyncio.sleep(3600)


async def cut_off(exchange):
    await exchange.raw(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"choi')
    raise ConnectionError


async def no_usage(exchange):
    await exchange.json(completion(text="four words of text", usage=None))


async def breaks_once(exchange, seen=[]):  # noqa: B006 - the script's memory
    seen.append(exchange)
    await (broken(exchange) if len(seen) == 1 else ok(exchange))


async def breaks_twice(exchange, seen=[]):  # noqa: B006 - the script's memory
    seen.append(exchange)
    await (broken(exchange) if len(seen) <= 2 else ok(exchange))


async def bad_tool(exchange):
    call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": '{"amount": 12'}}
    await exchange.json(completion(None, "tool_calls", tool_calls=[call]))


async def unknown_tool(exchange):
    call = {"id": "c1", "type": "function", "function": {"name": "rm", "arguments": "{}"}}
    await exchange.json(completion(None, "tool_calls", tool_calls=[call]))


async def redirect(exchange):
    await exchange.json({}, 307, "location: http://127.0.0.1:1/v1/chat/completions\r\n")


async def vectors(exchange):
    data = [{"index": n, "embedding": [0.6, 0.8]} for n, _ in enumerate(exchange.body["input"])]
    await exchange.json({"model": "scripted-v", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}})


async def vectors_short(exchange):
    await exchange.json({"model": "scripted-v", "data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": USAGE})


SCRIPTS = {
    name.replace("_", "-"): script
    for name, script in globals().items()
    if asyncio.iscoroutinefunction(script) and not name.startswith("test")
}
FAILURES = [
    ("limited", "PROVIDER_RATE_LIMITED"),
    ("broken", "PROVIDER_UNAVAILABLE"),
    ("conflict", "PROVIDER_UNAVAILABLE"),
    ("key-refused", "PROVIDER_AUTH"),
    ("garbage", "PROVIDER_PROTOCOL"),
    ("empty-choices", "PROVIDER_PROTOCOL"),
    ("invented-finish", "PROVIDER_PROTOCOL"),
    ("hang", "PROVIDER_TIMEOUT"),
    ("cut-off", "PROVIDER_UNAVAILABLE"),
    ("redirect", "PROVIDER_PROTOCOL"),
    ("bad-tool", "PROVIDER_TOOL_CALL_MALFORMED"),
    ("unknown-tool", "PROVIDER_TOOL_CALL_MALFORMED"),
    ("ok down", "PROVIDER_UNAVAILABLE"),
]
ROUTES = {
    **{f"after-{n}": [script, "ok"] for n, (script, _) in enumerate(FAILURES)},
    **{f"only-{n}": [script] for n, (script, _) in enumerate(FAILURES)},
    "three": ["broken", "garbage", "ok", "ok"],
    "rejected": ["bad-request", "ok"],
    "estimated": ["no-usage"],
    "cooling": ["limited"],
    "thrice": ["broken", "ok"],
    "ceiling": ["bad-tool", "ok"],
    "sticky": ["breaks-once", "ok"],
    "plain": ["ok"],
    "embed": ["vectors-short", "vectors"],
}
TOOLS = '[{"type":"function","function":{"name":"pay","parameters":{"type":"object"}}}]'


@pytest.fixture(scope="module")
def provider(scripted):
    return scripted(SCRIPTS, ROUTES, attempt_seconds=0.7)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=[script for script, _ in FAILURES])
async def test_the_next_candidate_answers_after(client, provider, number):
    answer = await client.chat(f"after-{number}", tools_json=TOOLS, request_id=f"after-{number}")
    assert answer.message.content == "fine"
    assert answer.attempts == 2
    assert answer.catalogue_model == f"after-{number}.1"
    (row,) = await client.usage(f"after-{number}")
    assert (row.outcome, row.attempts, row.catalogue_model) == ("ok", 2, f"after-{number}.1")


@pytest.mark.parametrize("number", range(len(FAILURES)), ids=[script for script, _ in FAILURES])
async def test_with_no_candidate_left_the_error_is_typed_and_booked(client, number):
    reason = FAILURES[number][1]
    with pytest.raises(SlipwayError) as caught:
        await client.chat(f"only-{number}", tools_json=TOOLS, request_id=f"only-{number}")
    assert caught.value.reason == reason
    assert "sk-scripted" not in caught.value.message
    (row,) = await client.usage(f"only-{number}")
    assert (row.outcome, row.attempts) == (reason, 1)


async def test_a_refused_platform_key_is_unavailable_and_not_the_callers_401(client):
    number = [script for script, _ in FAILURES].index("key-refused")
    with pytest.raises(SlipwayError) as caught:
        await client.chat(f"only-{number}")
    assert caught.value.kind is ErrorKind.UNAVAILABLE


async def test_candidates_are_tried_in_order_until_one_answers(client, provider):
    answer = await client.chat("three")
    assert answer.catalogue_model == "three.2"
    assert answer.attempts == 3
    assert [len(provider.seen("three", n)) for n in range(4)] == [1, 1, 1, 0]


async def test_a_request_the_provider_finds_wrong_goes_nowhere_else(client, provider):
    with pytest.raises(SlipwayError) as caught:
        await client.chat("rejected")
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.INVALID_ARGUMENT, "PROVIDER_REJECTED")
    assert "temperature is wrong" in caught.value.message
    assert provider.seen("rejected", 1) == []


async def test_an_answer_without_usage_is_billed_by_estimate_and_says_so(client):
    answer = await client.chat("estimated", text="x" * 400)
    assert answer.usage.estimated
    assert answer.usage.input_tokens >= 100
    assert answer.usage.output_tokens >= 4
    assert answer.usage.cost.nanos > 100_000


async def test_what_a_failed_attempt_used_is_paid(client):
    number = [script for script, _ in FAILURES].index("bad-tool")
    answer = await client.chat(f"after-{number}", tools_json=TOOLS)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 8)


async def test_what_failed_attempts_cost_counts_against_the_ceiling(client, provider):
    # An attempt costs at most 0.003224 dollars, 0.001024 of it for tools on offer; the first one, which fails, reports
    # 0.00005.
    ceiling = Money(currency_code="USD", nanos=3_224_000)
    with pytest.raises(SlipwayError) as caught:
        await client.chat("ceiling", tools_json=TOOLS, max_cost=ceiling, text="x" * 73, max_tokens=100)
    assert caught.value.reason == "PROVIDER_TOOL_CALL_MALFORMED"
    assert provider.seen("ceiling", 1) == []


async def test_a_model_is_tried_again_as_often_as_the_route_says(scripted, connect_to):
    retrying = scripted(SCRIPTS | {"twice": breaks_twice}, {"again": ["twice", "ok"]}, retries=2)
    answer = await connect_to(retrying.router).chat("again")
    assert (answer.catalogue_model, answer.attempts) == ("again.0", 3)


async def test_retry_after_cools_a_model_down_at_once(client, provider):
    with pytest.raises(SlipwayError):
        await client.chat("cooling")
    with pytest.raises(SlipwayError) as caught:
        await client.chat("cooling")
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.RESOURCE_EXHAUSTED, "MODELS_COOLING_DOWN")
    assert 20 < caught.value.retry_after <= 30
    assert len(provider.seen("cooling")) == 1
    explained = await client.call("ExplainRoute", pb.ExplainRouteRequest(chat=pb.ChatRequest(model="cooling")))
    assert not explained.candidates[0].eligible
    assert "cooling down" in explained.candidates[0].reason


async def test_a_model_that_fails_three_times_running_is_left_alone(client, provider):
    for _ in range(5):
        assert (await client.chat("thrice")).catalogue_model == "thrice.1"
    assert len(provider.seen("thrice", 0)) == 3
    listed = await client.call("ListModels", pb.ListModelsRequest(page_size=200))
    health = {entry.name: entry.health for entry in listed.models}
    assert (health["thrice.0"], health["thrice.1"], health["thrice"]) == ("cooling_down", "healthy", "healthy")


async def test_cooldowns_are_shared_with_other_replicas(provider, connect_to, start_router, client, eventually):
    number = [script for script, _ in FAILURES].index("limited")
    with pytest.raises(SlipwayError):
        await client.chat(f"only-{number}")
    redis = provider.router.environment["SLIPWAY_ROUTER_REDIS_URL"]
    replica = start_router(provider.router.catalogue.read_text(), {"scripted": "sk-scripted-key"}, redis_url=redis)
    before = len(provider.seen(f"only-{number}"))
    with pytest.raises(SlipwayError) as caught:
        await connect_to(replica).chat(f"only-{number}")
    assert caught.value.reason == "MODELS_COOLING_DOWN"
    assert len(provider.seen(f"only-{number}")) == before


async def test_a_session_stays_with_the_model_that_took_it_over(client):
    assert (await client.chat("sticky", session_id="s1")).catalogue_model == "sticky.1"
    again = await client.chat("sticky", session_id="s1")
    assert (again.catalogue_model, again.attempts) == ("sticky.1", 1)
    assert (await client.chat("sticky", session_id="s2")).catalogue_model == "sticky.0"
    assert (await client.chat("sticky")).catalogue_model == "sticky.0"
    explained = await client.call(
        "ExplainRoute", pb.ExplainRouteRequest(chat=pb.ChatRequest(model="sticky", session_id="s1"))
    )
    assert [candidate.model for candidate in explained.candidates] == ["sticky.1", "sticky.0"]


async def test_the_provider_gets_the_platforms_key_and_an_output_limit(client, provider):
    await client.chat("plain", temperature=0.5, stop=["END"], seed=7, extra_json='{"presence_penalty": 0.1}')
    exchange = provider.seen("plain")[-1]
    assert exchange.headers["authorization"] == "Bearer sk-scripted-key"
    body = exchange.body
    assert body["max_tokens"] == 100
    assert (body["temperature"], body["stop"], body["seed"], body["presence_penalty"]) == (0.5, ["END"], 7, 0.1)
    assert body["messages"] == [{"role": "user", "content": "hello"}]


async def test_vectors_that_do_not_match_the_inputs_are_refused(client):
    answer = await client.call("CreateEmbeddings", pb.CreateEmbeddingsRequest(model="embed", inputs=["a", "b"]))
    assert answer.catalogue_model == "embed.1"
    assert [list(e.values) for e in answer.embeddings] == [pytest.approx([0.6, 0.8])] * 2


async def test_fallbacks_and_cooldowns_are_counted(client, provider):
    await client.chat("three")
    import httpx

    async with httpx.AsyncClient() as http:
        text = (await http.get(f"http://127.0.0.1:{provider.router.metrics_port}/metrics")).text
    assert 'slipway_router_fallbacks_total{failed_model="three.0",reason="PROVIDER_UNAVAILABLE"}' in text
    assert 'slipway_router_calls_total{model="three.2",outcome="ok",route="three"}' in text
    assert 'slipway_router_attempt_duration_seconds_bucket{le="0.01",model="three.2",outcome="ok"}' in text
    assert "gen_ai_client_token_usage_bucket" in text
    assert "gen_ai_client_operation_duration_seconds_bucket" in text
