"""What follows from each class of failure, and attempts beside each other, over a provider that fails as told."""

import asyncio
import json

import pytest
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.channel import stream
from slipway_chassis.errors import ErrorKind, SlipwayError

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
SCHEMA = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
TOOLS = json.dumps([{"type": "function", "function": {"name": "pay", "parameters": SCHEMA}}])
FORM = json.dumps({"type": "json_schema", "json_schema": {"name": "payment", "schema": SCHEMA}})


def completion(text="fine", finish="stop", **message):
    message = {"role": "assistant", "content": text, **message}
    return {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE}


def says(text, finish="stop"):
    async def script(exchange):
        await exchange.json(completion(text, finish))

    return script


def calls(*arguments, finish="tool_calls"):
    """Calls of the tool `pay`; on later requests the next arguments, the last ones for ever."""
    seen = []

    async def script(exchange):
        seen.append(exchange)
        text = arguments[min(len(seen), len(arguments)) - 1]
        call = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": text}}
        await exchange.json(completion(None, finish, tool_calls=[call]))

    return script


def refuses(status, **error):
    async def script(exchange):
        await exchange.json({"error": error}, status)

    return script


def streams(*texts, finish="stop"):
    """A stream of these texts; on later requests the next list of them, the last one for ever."""
    seen = []

    async def script(exchange):
        seen.append(exchange)
        await exchange.open_stream()
        for text in texts[min(len(seen), len(texts)) - 1]:
            await exchange.delta(content=text)
        await exchange.delta(finish)
        await exchange.event({"choices": [], "usage": USAGE})
        await exchange.raw(b"data: [DONE]\n\n")

    return script


async def falls_silent(exchange):
    await exchange.open_stream()
    await exchange.delta(content="half a sen")
    await exchange.gone()


async def hang(exchange):
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        await exchange.raw(b" ")
        await asyncio.sleep(0.02)


async def endless(exchange):
    await exchange.open_stream()
    while True:
        await exchange.delta(content="on ")
        await asyncio.sleep(0.01)


async def hang_stream(exchange):
    await exchange.open_stream()
    await exchange.gone()


async def half_characters(exchange):
    await exchange.open_stream()
    for piece in (r"a\ud83d", r"\ude00b", r"\ud83d"):
        await exchange.raw(b'data: {"choices": [{"index": 0, "delta": {"content": "' + piece.encode() + b'"}}]}\n\n')
    await exchange.delta("stop")


def outrun(slow, quick):
    """Two scripts, of which the second answers a moment after the first was asked, however late that came to it."""
    asked = asyncio.Event()

    async def first(exchange):
        asked.set()
        await slow(exchange)

    async def second(exchange):
        await asked.wait()
        await asyncio.sleep(0.15)
        await quick(exchange)

    return first, second


hang_first, ok_second = outrun(hang, says("fine"))
hang_stream_first, stream_ok_second = outrun(hang_stream, streams(["fi", "ne"]))
LONG = {"message": "This model's maximum context length is 1000 tokens.", "code": "context_length_exceeded"}
FILTERED = {"message": "The response was filtered", "code": "content_filter"}
SCRIPTS = {
    "ok": says("fine"),
    "too-long": refuses(400, **LONG),
    "too-long-in-words": refuses(400, message="the request exceeds the available context size", type="invalid"),
    "filtered": refuses(400, **FILTERED),
    "stopped-by-filter": says("I can", "content_filter"),
    "wrong-type": calls('{"amount": "12"}'),
    "second-try": calls('{"amount": "12"}', '{"amount": 12}'),
    "fenced-call": calls('```json\n{"amount": 12,}\n```'),
    "cut-call": calls('{"amount": 12'),
    "no-call-after-all": says(None, "tool_calls"),
    "text": says("no JSON"),
    "json": says('{"amount": 12}'),
    "fenced": says('Here you are:\n```json\n{"amount": 12}\n```'),
    "cut-json": says('{"amount": 1', "length"),
    "stream-wrong": streams(['{"amo', 'unt": "x"}']),
    "stream-second": streams(['{"amo', 'unt": "x"}'], ['{"amo', 'unt": 7}']),
    "stream-ok": streams(["fi", "ne"]),
    "silent": falls_silent,
    "hang": hang,
    "endless": endless,
    "hang-first": hang_first,
    "ok-second": ok_second,
    "hang-stream-first": hang_stream_first,
    "stream-ok-second": stream_ok_second,
    "half-characters": half_characters,
}
ROUTES = {
    "larger": ["too-long", "ok", "ok"],
    "larger-in-words": ["too-long-in-words", "ok", "ok"],
    "none-larger": ["too-long", "ok"],
    "filter": ["filtered", "ok"],
    "filter-declared": ["filtered", "ok"],
    "stopped": ["stopped-by-filter", "ok"],
    "stopped-declared": ["stopped-by-filter", "ok"],
    "bad-call": ["wrong-type", "ok"],
    "bad-call-retried": ["second-try", "ok"],
    "bad-call-repaired": ["fenced-call", "ok"],
    "cut-call": ["cut-call", "ok"],
    "no-call": ["no-call-after-all", "ok"],
    "bad-json": ["text", "json"],
    "only-bad-json": ["text"],
    "json-repaired": ["fenced"],
    "cut-json": ["cut-json"],
    "stream-wrong": ["stream-wrong"],
    "stream-second": ["stream-second"],
    "silent": ["silent", "stream-ok"],
    "one-deadline": ["hang", "hang", "hang", "ok"],
    "hedged": ["hang-first", "ok-second"],
    "hedged-stream": ["hang-stream-first", "stream-ok-second"],
    "hedged-lost": ["hang", "text"],
    "half-characters": ["half-characters"],
    "endless": ["endless"],
}
LARGE = {"context_window": 9000}
MENDING = {"bad_output": {"repair": True}}
AGAIN = {"bad_output": {"retries": 1}}
ROUTES_WITH = {
    "filter-declared": {"fall_back_on_content_filter": True},
    "stopped-declared": {"fall_back_on_content_filter": True},
    "bad-call-retried": AGAIN,
    "bad-call-repaired": MENDING,
    "cut-call": MENDING,
    "json-repaired": MENDING,
    "stream-second": AGAIN,
    "silent": {"between_tokens_seconds": 0.3},
    "one-deadline": {"attempt_seconds": 0.8, "total_seconds": 2.0},
    "hedged": {"hedge_seconds": 0.1},
    "hedged-stream": {"hedge_seconds": 0.1},
    "hedged-lost": {"hedge_seconds": 0.1, "attempt_seconds": 0.6},
}


@pytest.fixture(scope="module")
def provider(scripted):
    large = {"larger.2": LARGE, "larger-in-words.2": LARGE}
    return scripted(SCRIPTS, ROUTES, models_with=large, routes_with=ROUTES_WITH)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


async def refusal(call):
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason


@pytest.mark.parametrize("route", ["larger", "larger-in-words"])
async def test_a_conversation_that_is_too_long_for_the_provider_goes_to_a_larger_model_only(client, provider, route):
    answer = await client.chat(route)
    assert (answer.catalogue_model, answer.attempts) == (f"{route}.2", 2)
    assert provider.seen(route, 1) == []


async def test_without_a_larger_model_the_conversation_is_too_long(client, provider):
    with pytest.raises(SlipwayError) as caught:
        await client.chat("none-larger")
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.INVALID_ARGUMENT, "CONTEXT_TOO_LONG")
    assert provider.seen("none-larger", 1) == []


async def test_a_content_policy_is_final_unless_the_route_declares_a_fallback(client, provider):
    assert await refusal(client.chat("filter")) == "PROVIDER_CONTENT_FILTERED"
    assert provider.seen("filter", 1) == []
    assert (await client.chat("filter-declared")).catalogue_model == "filter-declared.1"


async def test_an_answer_stopped_by_a_content_policy_says_so_unless_the_route_declares_a_fallback(client):
    stopped = await client.chat("stopped")
    assert (stopped.message.content, stopped.finish_reason) == ("I can", "content_filter")
    answer = await client.chat("stopped-declared")
    assert (answer.catalogue_model, answer.finish_reason, answer.usage.input_tokens) == (
        "stopped-declared.1",
        "stop",
        20,
    )


async def test_arguments_that_break_the_tools_schema_lead_to_the_next_model(client):
    answer = await client.chat("bad-call", tools_json=TOOLS)
    assert (answer.catalogue_model, answer.attempts) == ("bad-call.1", 2)


async def test_bad_output_is_asked_for_again_as_often_as_declared_and_paid_each_time(client):
    answer = await client.chat("bad-call-retried", tools_json=TOOLS)
    assert (answer.catalogue_model, answer.attempts) == ("bad-call-retried.0", 2)
    assert answer.message.tool_calls[0].arguments_json == '{"amount": 12}'
    assert answer.usage.input_tokens == 20


async def test_a_fence_and_a_trailing_comma_are_mended_where_declared(client):
    answer = await client.chat("bad-call-repaired", tools_json=TOOLS)
    assert answer.attempts == 1
    assert json.loads(answer.message.tool_calls[0].arguments_json) == {"amount": 12}
    answer = await client.chat("json-repaired", response_format_json=FORM)
    assert json.loads(answer.message.content) == {"amount": 12}


async def test_what_was_cut_off_is_never_mended(client):
    assert (await client.chat("cut-call", tools_json=TOOLS)).catalogue_model == "cut-call.1"


async def test_a_finish_reason_of_tool_calls_without_a_call_is_no_success(client):
    assert (await client.chat("no-call", tools_json=TOOLS)).catalogue_model == "no-call.1"


async def test_a_required_tool_call_that_is_missing_is_no_success(client):
    call = client.chat("only-bad-json", tools_json=TOOLS, tool_choice_json='"required"')
    assert await refusal(call) == "PROVIDER_TOOL_CALL_MALFORMED"


async def test_an_answer_that_is_not_the_json_asked_for_leads_to_the_next_model(client):
    answer = await client.chat("bad-json", response_format_json=FORM)
    assert answer.message.content == '{"amount": 12}'
    assert await refusal(client.chat("only-bad-json", response_format_json=FORM)) == "PROVIDER_OUTPUT_INVALID"
    # Nothing is wrong with it for whoever did not ask for JSON.
    assert (await client.chat("only-bad-json")).message.content == "no JSON"


async def test_json_that_was_cut_off_by_the_output_limit_says_so(client):
    answer = await client.chat("cut-json", response_format_json=FORM)
    assert (answer.finish_reason, answer.message.content) == ("length", '{"amount": 1')


async def test_a_schema_that_is_none_or_refers_elsewhere_names_its_field(client):
    for schema in ({"type": "strin"}, {"$ref": "http://127.0.0.1:9/schema"}):
        with pytest.raises(SlipwayError) as caught:
            await client.chat(
                "bad-json",
                response_format_json=json.dumps({"type": "json_schema", "json_schema": {"schema": schema}}),
            )
        assert caught.value.field == "chat.response_format_json.json_schema.schema"


async def collected(events):
    """Text of a stream that fails, and the reason."""
    texts = []
    try:
        async for event in events:
            assert not event.HasField("finished")
            texts.append(event.content_delta)
    except SlipwayError as error:
        return "".join(texts), error.reason
    raise AssertionError("the stream ended as if nothing had happened")


async def test_a_streamed_answer_that_breaks_its_schema_ends_with_an_error(client):
    text, reason = await collected(client.stream("stream-wrong", response_format_json=FORM))
    assert (text, reason) == ('{"amount": "x"}', "PROVIDER_OUTPUT_INVALID")


async def test_streamed_json_is_held_back_where_it_may_be_asked_for_again(client):
    events = [event async for event in client.stream("stream-second", response_format_json=FORM)]
    assert "".join(event.content_delta for event in events) == '{"amount": 7}'
    assert events[0].started.attempts == 2
    assert events[-1].finished.usage.input_tokens == 20


async def test_silence_after_the_first_token_ends_the_stream_whatever_comments_come(client, provider):
    text, reason = await collected(client.stream("silent", request_id="fell-silent"))
    assert (text, reason) == ("half a sen", "PROVIDER_TIMEOUT")
    assert provider.seen("silent", 1) == []
    (row,) = await client.usage("fell-silent")
    assert (row.outcome, row.usage.estimated) == ("PROVIDER_TIMEOUT", True)


async def test_a_stream_that_outlasts_its_caller_says_nothing_against_the_model(client):
    for _ in range(4):
        request = pb.StreamChatCompletionRequest(
            chat=pb.ChatRequest(model="endless", messages=[pb.ChatMessage(role="user", content="hi")])
        )
        with pytest.raises(SlipwayError) as caught:
            async for _event in stream(client.stub.StreamChatCompletion, request, token=client.token, timeout=0.4):
                pass
        assert caught.value.kind is ErrorKind.DEADLINE_EXCEEDED
    listed = await client.call("ListModels", pb.ListModelsRequest(page_size=200))
    assert next(entry.health for entry in listed.models if entry.name == "endless.0") == "healthy"


async def test_one_deadline_holds_for_all_attempts(client, provider):
    assert await refusal(client.chat("one-deadline", request_id="one-deadline")) == "PROVIDER_TIMEOUT"
    assert provider.seen("one-deadline", 3) == []
    (row,) = await client.usage("one-deadline")
    assert row.attempts == 3
    assert row.latency_ms < 4000


async def test_a_slow_model_gets_company_and_both_are_paid(client, provider, eventually):
    answer = await client.chat("hedged", request_id="hedged", text="x" * 400)
    assert (answer.catalogue_model, answer.message.content, answer.attempts) == ("hedged.1", "fine", 2)
    # 10 tokens as reported by the winner, and an estimate for the prompt that the other one was sent.
    assert answer.usage.estimated
    assert answer.usage.input_tokens > 110
    assert await asyncio.to_thread(provider.hung_up("hedged").wait, 10)
    decision = await client.call("GetRouteDecision", pb.GetRouteDecisionRequest(request_id="hedged"))
    assert [(a.model, a.outcome, a.hedge) for a in decision.attempts] == [
        ("hedged.0", "CANCELLED", False),
        ("hedged.1", "ok", True),
    ]

    async def known():
        listed = await client.call("ListModels", pb.ListModelsRequest(page_size=200))
        outrun = next(entry for entry in listed.models if entry.name == "hedged.0")
        return outrun.latency.ToMilliseconds()

    # The one that was outrun counts as slow, not as unknown.
    assert await eventually(known) >= 100


async def test_a_slow_stream_gets_company_before_its_first_token(client, provider):
    events = [event async for event in client.stream("hedged-stream")]
    assert events[0].started.catalogue_model == "hedged-stream.1"
    assert "".join(event.content_delta for event in events) == "fine"
    assert await asyncio.to_thread(provider.hung_up("hedged-stream").wait, 10)


async def test_a_hedge_that_fails_leaves_the_first_attempt_its_time(client):
    call = client.chat("hedged-lost", response_format_json=FORM, request_id="hedged-lost")
    assert await refusal(call) == "PROVIDER_TIMEOUT"
    (row,) = await client.usage("hedged-lost")
    assert row.attempts == 2


async def test_characters_cut_in_two_are_joined_and_a_lonely_half_is_replaced(client):
    events = [event async for event in client.stream("half-characters")]
    assert "".join(event.content_delta for event in events) == "a\U0001f600b"
