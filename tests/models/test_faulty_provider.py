"""What users of the untouched OpenAI SDK see of a provider that fails in every way: the next model's answer where that
is possible, else the right exception, and never half an answer as a whole one."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import openai
import pydantic
import pytest
from slipway_testkit.provider import Exchange

MESSAGES: Any = [{"role": "user", "content": "hello"}]
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
SCHEMA = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
TOOLS: Any = [{"type": "function", "function": {"name": "pay", "parameters": SCHEMA}}]


def completion(text: str | None = "fine", finish: str = "stop", usage: Any = USAGE, **message: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **message}
    return {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def tool_call(arguments: str, call_id: str = "c1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "pay", "arguments": arguments}}


async def ok(exchange: Exchange) -> None:
    if exchange.body.get("stream"):
        await whole_stream(exchange)
    else:
        await exchange.json(completion())


async def limited(exchange: Exchange) -> None:
    await exchange.json({"error": {"message": "slow down"}}, 429, "retry-after: 1\r\n")


async def broken(exchange: Exchange) -> None:
    await exchange.json({"error": {"message": "oops"}}, 503)


async def hang(exchange: Exchange) -> None:
    await asyncio.sleep(600)


async def reset(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{")
    raise ConnectionResetError


async def key_refused(exchange: Exchange) -> None:
    await exchange.json({"error": {"message": "Incorrect API key provided: sk-first"}}, 401)


async def garbage(exchange: Exchange) -> None:
    await exchange.text(b"<html>it works</html>")


async def bad_utf8(exchange: Exchange) -> None:
    await exchange.text(b'{"model": "m", "choices": [{"index": 0, "message": {"content": "\xff\xfe"}}]}')


async def zipped(exchange: Exchange) -> None:
    body = gzip.compress(json.dumps(completion("unzipped")).encode())
    await exchange.text(body, headers="content-encoding: gzip\r\n")


async def half_zipped(exchange: Exchange) -> None:
    body = gzip.compress(json.dumps(completion("unzipped" * 100)).encode())[:40]
    await exchange.text(body, headers="content-encoding: gzip\r\n")


async def surrogate(exchange: Exchange) -> None:
    await exchange.text(json.dumps(completion("lonely @ half")).replace("@", "\\ud83d").encode())


async def wrong_usage(exchange: Exchange) -> None:
    await exchange.json(completion(usage={"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": None}))


async def no_usage(exchange: Exchange) -> None:
    await exchange.json(completion(usage=None))


async def big(exchange: Exchange) -> None:
    await exchange.json(completion("x" * 20_000_000))


async def endless_body(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{")
    while True:
        await exchange.raw(b" " * 1_000_000)


async def bad_call(exchange: Exchange) -> None:
    await exchange.json(completion(None, "tool_calls", tool_calls=[tool_call('{"amount": "much"}')]))


async def parallel_calls(exchange: Exchange) -> None:
    calls = [tool_call('{"amount": 1}', "c1"), tool_call('{"amount": 2}', "c2")]
    await exchange.json(completion(None, "tool_calls", tool_calls=calls))


async def payment(exchange: Exchange) -> None:
    await exchange.json(completion('{"amount": 12}'))


async def no_payment(exchange: Exchange) -> None:
    await exchange.json(completion('{"amount": "a dozen"}'))


async def whole_stream(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.raw(b": heartbeat\n\n")
    await exchange.delta(role="assistant", content="")
    for text in ("one ", "two ", "three"):
        await exchange.delta(content=text)
    await exchange.delta("stop")
    await exchange.event({"model": "m-1", "choices": [], "usage": USAGE})
    await exchange.raw(b"data: [DONE]\n\n")


async def half_stream(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.delta(content="half a sen")


async def reset_before_text(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.delta(role="assistant", content="")
    raise ConnectionResetError


async def malformed_frame(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.delta(content="so far so good")
    await exchange.raw(b'data: {"choices": [{"index": 0, "delta": {"content": \n\n')


async def error_frame(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.delta(content="so far so good")
    await exchange.event({"error": {"message": "overloaded", "type": "server_error"}})


async def call_in_fragments(exchange: Exchange) -> None:
    await exchange.open_stream()
    for n, name in ((0, "c1"), (1, "c2")):
        await exchange.delta(
            tool_calls=[{"index": n, "id": name, "type": "function", "function": {"name": "pay", "arguments": ""}}]
        )
        for piece in ('{"amo', 'unt": ', f"{n + 1}}}"):
            await exchange.delta(tool_calls=[{"index": n, "function": {"arguments": piece}}])
    await exchange.delta("tool_calls")
    await exchange.raw(b"data: [DONE]\n\n")


async def cut_call(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.delta(content="I will pay.")
    await exchange.delta(
        tool_calls=[{"index": 0, "id": "c1", "function": {"name": "pay", "arguments": '{"amount": 1'}}]
    )
    await exchange.delta("tool_calls")
    await exchange.raw(b"data: [DONE]\n\n")


async def silent(exchange: Exchange) -> None:
    await exchange.open_stream()
    await exchange.gone()


async def endless(exchange: Exchange) -> None:
    await exchange.open_stream()
    while True:
        await exchange.delta(content="on and ")
        await asyncio.sleep(0.01)


async def vectors(exchange: Exchange) -> None:
    data = [{"index": n, "embedding": [0.5, -0.5]} for n, _ in enumerate(exchange.body["input"])]
    await exchange.json({"model": "v", "data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}})


SCRIPTS: dict[str, Any] = {name: script for name, script in globals().items() if asyncio.iscoroutinefunction(script)}
WHOLE_FAILURES = [
    "limited", "broken", "hang", "reset", "key_refused", "garbage", "bad_utf8", "half_zipped", "endless_body",
    "bad_call",
]  # fmt: skip
STREAM_FAILURES = ["limited", "broken", "hang", "key_refused", "garbage", "reset_before_text", "silent"]
ALONE = [
    "zipped", "surrogate", "wrong_usage", "no_usage", "big", "parallel_calls", "payment", "no_payment", "whole_stream",
    "half_stream", "malformed_frame", "error_frame", "call_in_fragments", "cut_call", "endless", "vectors",
]  # fmt: skip
ROUTES = {
    **{f"{name}-then-ok": [name, "ok"] for name in {*WHOLE_FAILURES, *STREAM_FAILURES, "no_payment", "half_stream"}},
    **{f"only-{name}": [name] for name in {*WHOLE_FAILURES, *STREAM_FAILURES}},
    **{name: [name] for name in ALONE},
    "no-payment-then-payment": ["no_payment", "payment"],
}


@pytest.fixture(scope="module")
def models(start_models: Callable[..., Any]) -> Any:
    return start_models(SCRIPTS, ROUTES, patient=ALONE, seconds=2)


@pytest.fixture(scope="module")
def sdk(models: Any) -> Any:
    with models.sdk() as client:
        yield client


def tools_of(name: str) -> dict[str, Any]:
    return {"tools": TOOLS} if "call" in name else {}


@pytest.mark.parametrize("name", WHOLE_FAILURES)
def test_the_next_model_answers(sdk: openai.OpenAI, name: str) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model=f"{name}-then-ok", messages=MESSAGES, **tools_of(name))
    assert raw.parse().choices[0].message.content == "fine"
    assert (raw.headers["x-slipway-model"], raw.headers["x-slipway-attempts"]) == (f"{name}-then-ok.1", "2")


@pytest.mark.parametrize("name", STREAM_FAILURES)
def test_the_next_model_streams_when_the_first_fails_before_its_first_token(sdk: openai.OpenAI, name: str) -> None:
    stream = sdk.chat.completions.create(model=f"{name}-then-ok", messages=MESSAGES, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == "one two three"


@pytest.mark.parametrize(
    ("name", "expected", "status", "code"),
    [
        ("limited", openai.RateLimitError, 429, "provider_rate_limited"),
        ("broken", openai.InternalServerError, 502, "provider_unavailable"),
        ("hang", openai.InternalServerError, 504, "provider_timeout"),
        ("reset", openai.InternalServerError, 502, "provider_unavailable"),
        ("key_refused", openai.InternalServerError, 502, "provider_auth"),
        ("garbage", openai.InternalServerError, 502, "provider_protocol"),
        ("bad_utf8", openai.InternalServerError, 502, "provider_protocol"),
        ("endless_body", openai.InternalServerError, 502, "provider_protocol"),
        ("bad_call", openai.InternalServerError, 502, "provider_tool_call_malformed"),
    ],
)
def test_with_no_other_model_the_sdk_raises_the_right_class(
    sdk: openai.OpenAI, name: str, expected: type[openai.APIStatusError], status: int, code: str
) -> None:
    with pytest.raises(expected) as caught:
        sdk.chat.completions.create(model=f"only-{name}", messages=MESSAGES, **tools_of(name))
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "sk-first" not in str(caught.value)


@pytest.mark.parametrize("name", ["half_stream", "malformed_frame", "error_frame", "cut_call"])
def test_a_stream_that_breaks_after_its_first_token_raises_and_nobody_goes_on(
    models: Any, sdk: openai.OpenAI, name: str
) -> None:
    texts: list[str] = []
    stream = sdk.chat.completions.create(model=name, messages=MESSAGES, stream=True, **tools_of(name))
    with pytest.raises(openai.APIError) as caught:
        texts.extend(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert str(caught.value.code).startswith("provider_")
    assert len(models.provider.seen[f"{name}@{name}.0"]) == 1


def test_a_broken_stream_is_never_continued_by_the_next_model(models: Any, sdk: openai.OpenAI) -> None:
    stream = sdk.chat.completions.create(model="half_stream-then-ok", messages=MESSAGES, stream=True)
    got: list[str] = []
    with pytest.raises(openai.APIError):
        got.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(got) == "half a sen"
    assert models.provider.seen["ok@half_stream-then-ok.1"] == []


async def test_asynchronous_streams_do_the_same(models: Any) -> None:
    async with models.async_sdk() as client:

        async def text_of(model: str) -> str:
            stream = await client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        assert await asyncio.gather(*(text_of("whole_stream") for _ in range(20))) == ["one two three"] * 20
        with pytest.raises(openai.APIError):
            await text_of("half_stream")


def test_usage_of_a_stream_comes_when_it_is_asked_for(sdk: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = [
        *sdk.chat.completions.create(model="whole_stream", messages=MESSAGES, stream=True, stream_options=options)
    ]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 14
    plain = [*sdk.chat.completions.create(model="whole_stream", messages=MESSAGES, stream=True)]
    assert all(chunk.usage is None for chunk in plain)


def test_images_reach_the_provider_as_they_are(models: Any, sdk: openai.OpenAI) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
    content: Any = [{"type": "text", "text": "what is it?"}, image]
    sdk.chat.completions.create(model="no_usage", messages=[{"role": "user", "content": content}])
    assert models.provider.seen["no_usage@no_usage.0"][-1].body["messages"][0]["content"][1] == image


def test_parallel_tool_calls_come_whole(sdk: openai.OpenAI) -> None:
    message = sdk.chat.completions.create(model="parallel_calls", messages=MESSAGES, tools=TOOLS).choices[0].message
    assert [json.loads(call.function.arguments) for call in message.tool_calls or ()] == [{"amount": 1}, {"amount": 2}]


def test_tool_calls_in_fragments_are_put_together(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="call_in_fragments", messages=MESSAGES, tools=TOOLS) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [(call.id, json.loads(call.function.arguments)) for call in calls] == [
        ("c1", {"amount": 1}),
        ("c2", {"amount": 2}),
    ]


class Payment(pydantic.BaseModel):
    amount: int


def test_structured_answers_are_parsed_by_the_sdk(sdk: openai.OpenAI) -> None:
    parsed = sdk.chat.completions.parse(model="payment", messages=MESSAGES, response_format=Payment)
    assert parsed.choices[0].message.parsed == Payment(amount=12)
    parsed = sdk.chat.completions.parse(model="no-payment-then-payment", messages=MESSAGES, response_format=Payment)
    assert parsed.choices[0].message.parsed == Payment(amount=12)
    with pytest.raises(openai.InternalServerError) as caught:
        sdk.chat.completions.parse(model="no_payment", messages=MESSAGES, response_format=Payment)
    assert caught.value.code == "provider_output_invalid"


@pytest.mark.parametrize("name", ["wrong_usage", "no_usage"])
def test_usage_that_is_wrong_or_missing_is_billed_by_estimate(models: Any, sdk: openai.OpenAI, name: str) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model=name, messages=MESSAGES)
    assert raw.parse().choices[0].message.content == "fine"
    assert float(raw.headers["x-slipway-cost-usd"]) > 0


def test_answers_in_strange_encodings_are_read_or_refused(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="zipped", messages=MESSAGES)
    assert answer.choices[0].message.content == "unzipped"
    answer = sdk.chat.completions.create(model="surrogate", messages=MESSAGES)
    assert answer.choices[0].message.content == "lonely \ufffd half"


def test_an_answer_of_twenty_megabytes_comes_whole(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="big", messages=MESSAGES)
    assert len(answer.choices[0].message.content or "") == 20_000_000


def test_whoever_leaves_a_stream_stops_the_provider_and_pays_for_what_came(models: Any, sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="endless", messages=MESSAGES, stream=True)
    stream = raw.parse()
    for _, _chunk in zip(range(5), stream, strict=False):
        pass
    stream.close()
    assert models.provider.hung_up["endless@endless.0"].wait(20)
    request_id = raw.headers["x-slipway-request-id"]
    routing = _eventually(lambda: _usage(sdk, request_id))
    assert (routing["outcome"], routing["usage"]["estimated"]) == ("CANCELLED", True)
    assert routing["usage"]["cost_usd"] > 0


def test_embeddings_come_as_the_sdk_wants_them(sdk: openai.OpenAI) -> None:
    result = sdk.embeddings.create(model="vectors", input=["a", "b"])
    assert [item.embedding for item in result.data] == [[0.5, -0.5]] * 2


def _usage(sdk: openai.OpenAI, request_id: str) -> dict[str, Any] | None:
    try:
        return sdk.get(f"/usage/{request_id}", cast_to=dict[str, Any])
    except openai.NotFoundError:
        return None


def _eventually(look: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    import time

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")
