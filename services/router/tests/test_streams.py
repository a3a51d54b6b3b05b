"""Streams: the commit boundary, timers, tool calls, and callers who hang up."""

import asyncio
import contextlib
import json

import pytest
from slipway_chassis.errors import ErrorKind, SlipwayError

USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 6,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}
TOOLS = '[{"type":"function","function":{"name":"pay","parameters":{"type":"object"}}}]'


async def say(exchange, *words):
    await exchange.open_stream()
    await exchange.delta(role="assistant", content="")
    for word in words:
        await exchange.delta(content=word)


async def end(exchange, finish="stop", usage=USAGE):
    await exchange.delta(finish)
    if usage:
        await exchange.event({"model": "scripted-1", "choices": [], "usage": usage})
    await exchange.raw(b"data: [DONE]\n\n")


async def ok(exchange):
    await say(exchange, "one ", "two ", "three")
    await end(exchange)


async def no_usage(exchange):
    await say(exchange, "one ", "two")
    await end(exchange, usage=None)


async def half(exchange):
    await say(exchange, "one ", "two")
    raise ConnectionError


async def half_chunked(exchange):
    await exchange.raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b'34\r\ndata: {"choices": [{"delta": {"content": "one"}}]}\n\n\r\n'
    )
    raise ConnectionError


async def no_finish(exchange):
    await say(exchange, "one ", "two")
    await exchange.raw(b"data: [DONE]\n\n")


async def error_event(exchange):
    await say(exchange, "one ")
    await exchange.event({"error": {"message": "overloaded", "code": 503}})


async def garbage_event(exchange):
    await say(exchange, "one ")
    await exchange.raw(b"data: {not json\n\n")


async def refused(exchange):
    await exchange.json({"error": {}}, 503)


async def drip(exchange):
    """Heartbeats and role-only chunks for ever."""
    await exchange.open_stream()
    while True:
        await exchange.raw(b": keep-alive\n\n")
        await exchange.delta(role="assistant", content="")
        await asyncio.sleep(0.05)


async def slow_tail(exchange):
    await say(exchange, "one ")
    while True:
        await exchange.delta(content=".")
        await asyncio.sleep(0.05)


async def endless(exchange):
    await say(exchange, *["word "] * 40)
    await exchange.gone()


async def tool(exchange):
    await say(exchange)
    await exchange.delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "pay", "arguments": ""}}])
    for piece in ('{"amo', 'unt": ', "12}"):
        await exchange.delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}])
    await exchange.delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "pay", "arguments": "{}"}}])
    await end(exchange, "tool_calls")


async def unreported_tool(exchange):
    await say(exchange)
    call = {"index": 0, "id": "c1", "function": {"name": "pay", "arguments": '{"amount": 12, "to": "alice"}'}}
    await exchange.delta(tool_calls=[call])
    await end(exchange, "tool_calls", usage=None)


async def parts(exchange):
    await exchange.open_stream()
    await exchange.delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}])
    await exchange.delta(content=[{"type": "text", "text": "one "}, {"type": "text", "text": "two"}])
    await end(exchange)


async def bad_tool(exchange):
    await say(exchange)
    await exchange.delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "pay", "arguments": '{"amo'}}])
    await end(exchange, "tool_calls")


async def text_then_bad_tool(exchange):
    await say(exchange, "I will pay. ")
    await exchange.delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "pay", "arguments": '{"amo'}}])
    await end(exchange, "tool_calls")


async def giant_event(exchange):
    await exchange.open_stream()
    for _ in range(40):
        await exchange.raw(b"x" * 65536)
    await exchange.gone()


SCRIPTS = {
    name.replace("_", "-"): script
    for name, script in globals().items()
    if asyncio.iscoroutinefunction(script) and not name.startswith("test") and name not in ("say", "end")
}
BEFORE = ["refused", "drip", "bad-tool", "giant-event"]
AFTER = {
    "half": "PROVIDER_STREAM_TRUNCATED",
    "half-chunked": "PROVIDER_UNAVAILABLE",
    "no-finish": "PROVIDER_STREAM_TRUNCATED",
    "error-event": "PROVIDER_UNAVAILABLE",
    "garbage-event": "PROVIDER_PROTOCOL",
    "text-then-bad-tool": "PROVIDER_TOOL_CALL_MALFORMED",
    "slow-tail": "PROVIDER_TIMEOUT",
}
ROUTES = {
    "plain": ["ok"],
    "unreported": ["no-usage"],
    "tool": ["tool"],
    "unreported-tool": ["unreported-tool"],
    "parts": ["parts"],
    "endless": ["endless"],
    "endless-whole": ["endless"],
    **{f"before-{script}": [script, "ok"] for script in BEFORE},
    **{f"after-{script}": [script, "ok"] for script in AFTER},
}


@pytest.fixture(scope="module")
def provider(scripted):
    return scripted(SCRIPTS, ROUTES, first_token_seconds=0.5, attempt_seconds=1.5)


@pytest.fixture
def client(provider, connect_to):
    return connect_to(provider.router)


async def read_into(events, stream):
    async for event in stream:
        events.append(event)


async def collect(stream):
    events = []
    await read_into(events, stream)
    return events, "".join(event.content_delta for event in events)


async def test_deltas_come_as_they_are_and_the_end_carries_usage_and_record(client, provider):
    events, text = await collect(client.stream("plain", request_id="s-plain"))
    assert text == "one two three"
    started, finished = events[0].started, events[-1].finished
    assert (started.model, started.catalogue_model, started.attempts) == ("scripted-1", "plain.0", 1)
    assert finished.finish_reason == "stop"
    usage = finished.usage
    classes = (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, usage.reasoning_tokens)
    assert classes == (6, 4, 4, 2)
    # 6 × 1.00 + 4 × 0.10 + 4 × 10 + 2 × 20 dollars a million
    assert (usage.cost.units, usage.cost.nanos) == (0, 86_400)
    assert provider.seen("plain")[0].body["stream_options"] == {"include_usage": True}
    (row,) = await client.usage("s-plain")
    assert row.usage == usage


async def test_a_stream_without_usage_is_estimated(client):
    events, _ = await collect(client.stream("unreported"))
    assert events[-1].finished.usage.estimated
    assert events[-1].finished.usage.output_tokens > 0


async def test_calls_of_tools_are_estimated_too(client):
    events, _ = await collect(client.stream("unreported-tool", tools_json=TOOLS))
    assert events[-1].finished.usage.estimated
    assert events[-1].finished.usage.output_tokens > 0


async def test_content_in_parts_is_its_text(client):
    _, text = await collect(client.stream("parts"))
    assert text == "one two"


@pytest.mark.parametrize("script", BEFORE)
async def test_before_the_first_delta_the_next_candidate_takes_over(client, script):
    events, text = await collect(client.stream(f"before-{script}", tools_json=TOOLS))
    assert text == "one two three"
    assert events[0].started.attempts == 2
    assert events[0].started.catalogue_model == f"before-{script}.1"


@pytest.mark.parametrize("script", AFTER)
async def test_after_the_first_delta_a_failure_ends_the_stream_with_its_reason(client, provider, script):
    events = []
    with pytest.raises(SlipwayError) as caught:
        await read_into(events, client.stream(f"after-{script}", tools_json=TOOLS, request_id=f"s-{script}"))
    assert caught.value.reason == AFTER[script]
    assert "".join(event.content_delta for event in events)
    assert "finished" not in {event.WhichOneof("event") for event in events}
    assert provider.seen(f"after-{script}", 1) == []
    (row,) = await client.usage(f"s-{script}")
    assert (row.outcome, row.attempts) == (AFTER[script], 1)
    assert row.usage.output_tokens > 0


async def test_tool_calls_are_held_back_until_they_are_whole(client):
    events, _ = await collect(client.stream("tool", tools_json=TOOLS))
    calls = [event.tool_call for event in events if event.WhichOneof("event") == "tool_call"]
    assert [(call.id, call.name, json.loads(call.arguments_json)) for call in calls] == [
        ("c1", "pay", {"amount": 12}),
        ("c2", "pay", {}),
    ]
    assert events[-1].finished.finish_reason == "tool_calls"


async def test_a_caller_who_hangs_up_stops_the_provider_and_pays_for_what_came(client, provider, eventually):
    async with contextlib.aclosing(client.stream("endless", request_id="s-gone")) as stream:
        async for event in stream:
            if event.content_delta:
                break
    assert await asyncio.to_thread(provider.hung_up("endless").wait, 10)

    async def booked():
        return await client.usage("s-gone")

    (row,) = await eventually(booked)
    assert row.outcome == "CANCELLED"
    assert row.usage.estimated
    assert row.usage.output_tokens > 0
    assert row.usage.cost.nanos > 0


async def test_a_deadline_that_passes_in_a_whole_answer_is_booked_too(client, provider, eventually):
    from slipway.router.v1 import router_pb2 as pb

    request = pb.CreateChatCompletionRequest(
        chat=pb.ChatRequest(
            model="endless-whole", messages=[pb.ChatMessage(role="user", content="hi")], request_id="s-deadline"
        )
    )
    with pytest.raises(SlipwayError) as caught:
        await client.call("CreateChatCompletion", request, timeout=0.4)
    assert caught.value.kind is ErrorKind.DEADLINE_EXCEEDED

    async def booked():
        return await client.usage("s-deadline")

    (row,) = await eventually(booked)
    # Whoever looks at the clock first: the router, or the caller.
    assert row.outcome in ("PROVIDER_TIMEOUT", "CANCELLED")
    assert row.usage.input_tokens > 0
