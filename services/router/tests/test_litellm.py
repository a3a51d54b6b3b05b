"""Anthropic and Gemini through litellm's SDK, against servers that speak their formats over real HTTP."""

import asyncio
import json
import os
import signal
from pathlib import Path

import httpx
import pytest
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError

REPOSITORY = Path(__file__).parents[3]
LITELLM_PYTHON = REPOSITORY / ".venv-litellm" / "bin" / "python"
SCHEMA = {"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
TOOLS = json.dumps([{"type": "function", "function": {"name": "pay", "description": "Pays.", "parameters": SCHEMA}}])
DOT = "data:image/png;base64,iVBORw0KGgo="
USAGE = {"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0}


def message(*content, stop="end_turn"):
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-9", "content": list(content),
        "stop_reason": stop, "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip


async def says(exchange):
    await exchange.json(message({"type": "text", "text": "Good day."}))


async def calls(exchange):
    pays = [{"type": "tool_use", "id": f"t{n}", "name": "pay", "input": {"amount": n}} for n in (1, 2)]
    await exchange.json(message(*pays, stop="tool_use"))


async def overloaded(exchange):
    await exchange.json({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529)


async def limited(exchange):
    error = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    await exchange.json(error, 429, "retry-after: 30\r\n")


async def key_refused(exchange):
    await exchange.json({"type": "error", "error": {"type": "authentication_error", "message": "sk-ant-1"}}, 401)


async def too_long(exchange):
    error = {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}
    await exchange.json({"type": "error", "error": error}, 400)


async def typed(exchange, kind, **fields):
    event = json.dumps({"type": kind, **fields})
    await exchange.raw(f"event: {kind}\ndata: {event}\n\n".encode())


async def begins(exchange):
    await exchange.open_stream()
    await typed(exchange, "message_start", message={**message(), "usage": {**USAGE, "output_tokens": 1}})
    await typed(exchange, "content_block_start", index=0, content_block={"type": "text", "text": ""})
    for text in ("Good ", "day."):
        await typed(exchange, "content_block_delta", index=0, delta={"type": "text_delta", "text": text})


async def streams(exchange):
    await begins(exchange)
    await typed(exchange, "content_block_stop", index=0)
    await typed(exchange, "message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4})
    await typed(exchange, "message_stop")


async def breaks_off(exchange):
    await begins(exchange)


async def endless(exchange):
    await begins(exchange)
    while True:
        await typed(exchange, "content_block_delta", index=0, delta={"type": "text_delta", "text": "on "})
        await asyncio.sleep(0.02)


async def reports(exchange):
    """Answers with the usage that the question says, in Anthropic's words."""
    asked = exchange.body["messages"][-1]["content"]
    usage = json.loads(asked if isinstance(asked, str) else asked[0]["text"])
    await exchange.json(message({"type": "text", "text": "Good day."}) | {"usage": usage})


async def gemini_reports(exchange):
    """The same in Gemini's."""
    usage = json.loads(exchange.body["contents"][-1]["parts"][0]["text"])
    part = {"content": {"role": "model", "parts": [{"text": "Good day."}]}, "finishReason": "STOP", "index": 0}
    await exchange.json({"candidates": [part], "usageMetadata": usage, "modelVersion": "gemini-9"})


async def gemini(exchange):
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 4, "totalTokenCount": 14}
    part = {"content": {"role": "model", "parts": [{"text": "Good day."}]}, "finishReason": "STOP", "index": 0}
    await exchange.json({"candidates": [part], "usageMetadata": usage, "modelVersion": "gemini-9"})


ANTHROPIC = {
    name.replace("_", "-"): script
    for name, script in globals().items()
    if asyncio.iscoroutinefunction(script) and name not in ("typed", "begins", "gemini", "gemini_reports")
}
GEMINI = {"gemini": gemini, "gemini-reports": gemini_reports}


@pytest.fixture(scope="module")
def provider(serve_provider):
    with serve_provider({**ANTHROPIC, **GEMINI}) as served:
        yield served


@pytest.fixture(scope="module")
def router(start_router, provider):
    assert LITELLM_PYTHON.exists(), "scripts/setup.sh dev makes it"
    models = {
        name: {
            "provider": "google" if name in GEMINI else "claude",
            "upstream": name,
            "kind": "chat",
            "context_window": 9000,
            "max_output_tokens": 100,
            "capabilities": ["tools", "response_format", "images"],
            "price": {"input": "1", "cached_input": "0.1", "output": "10"},
        }
        for name in (*ANTHROPIC, *GEMINI)
    }
    base = f"http://127.0.0.1:{provider.port}"
    catalogue = {
        "version": 1,
        "regions": ["us"],
        "providers": {
            "claude": {"type": "anthropic", "base_url": base, "api_key": "secret:claude", "regions": ["us"]},
            "google": {"type": "gemini", "base_url": base, "api_key": "secret:google", "regions": ["us"]},
        },
        "models": models,
        "routes": {"fallback": {"candidates": ["overloaded", "says"]}},
    }
    secrets = {"claude": "sk-ant-1", "google": "AIza-1"}
    return start_router(json.dumps(catalogue, indent=1), secrets, litellm_python=str(LITELLM_PYTHON))


@pytest.fixture
def client(router, connect_to):
    return connect_to(router)


async def test_anthropic_answers_as_any_other_provider(client, provider):
    answer = await client.chat("says", messages=[
        pb.ChatMessage(role="system", content="Be brief."), pb.ChatMessage(role="user", content="hello")
    ])  # fmt: skip
    assert (answer.message.content, answer.finish_reason) == ("Good day.", "stop")
    assert (answer.usage.input_tokens, answer.usage.cached_input_tokens, answer.usage.output_tokens) == (10, 5, 4)
    exchange = provider.seen["says"][-1]
    assert (exchange.path, exchange.headers["x-api-key"]) == ("/v1/messages", "sk-ant-1")
    assert exchange.body["max_tokens"] == 100
    assert "Be brief." in json.dumps(exchange.body["system"])


async def test_parallel_tool_calls_are_translated_and_checked(client, provider):
    answer = await client.chat("calls", tools_json=TOOLS)
    called = [(call.name, json.loads(call.arguments_json)) for call in answer.message.tool_calls]
    assert called == [("pay", {"amount": 1}), ("pay", {"amount": 2})]
    assert provider.seen["calls"][-1].body["tools"][0]["input_schema"]["required"] == ["amount"]


async def test_images_go_as_data_and_are_never_fetched(client, provider):
    def looks_at(url):
        parts = [{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url}}]
        return [pb.ChatMessage(role="user", content_parts_json=json.dumps(parts))]

    await client.chat("says", messages=looks_at(DOT))
    image = provider.seen["says"][-1].body["messages"][0]["content"][1]
    assert (image["type"], image["source"]["media_type"]) == ("image", "image/png")
    before = sum(map(len, provider.seen.values()))
    with pytest.raises(SlipwayError) as caught:
        await client.chat("says", messages=looks_at(f"http://127.0.0.1:{provider.port}/inside.png"))
    assert (caught.value.kind, caught.value.reason) == (ErrorKind.INVALID_ARGUMENT, "PROVIDER_REJECTED")
    assert sum(map(len, provider.seen.values())) == before


@pytest.mark.parametrize("extra", [{"api_base": "http://127.0.0.1:1"}, {"mock_response": "free"}, {"api_key": "mine"}])
async def test_callers_do_not_reach_the_sdks_own_switches(client, provider, extra):
    before = len(provider.seen["says"])
    with pytest.raises(SlipwayError) as caught:
        await client.chat("says", extra_json=json.dumps(extra))
    assert caught.value.reason == "PROVIDER_REJECTED"
    assert len(provider.seen["says"]) == before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("limited", "PROVIDER_RATE_LIMITED"),
        ("key-refused", "PROVIDER_AUTH"),
        ("too-long", "CONTEXT_TOO_LONG"),
        ("overloaded", "PROVIDER_UNAVAILABLE"),
    ],
)
async def test_failures_keep_their_class(client, model, reason):
    with pytest.raises(SlipwayError) as caught:
        await client.chat(model)
    assert caught.value.reason == reason
    assert "sk-ant-1" not in caught.value.message


async def test_a_failure_leads_to_the_next_candidate(client):
    assert (await client.chat("fallback")).catalogue_model == "says"


async def test_streams_come_in_deltas_with_their_usage(client):
    events = [event async for event in client.stream("streams")]
    assert [event.content_delta for event in events if event.content_delta] == ["Good ", "day."]
    usage = events[-1].finished.usage
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (10, 4, False)


async def test_a_stream_that_breaks_off_is_no_success(client):
    events = []
    with pytest.raises(SlipwayError) as caught:
        events.extend([event async for event in client.stream("breaks-off")])
    assert caught.value.reason.startswith("PROVIDER_")


async def test_a_caller_who_hangs_up_stops_the_provider(client, provider):
    stream = client.stream("endless")
    async for event in stream:
        if event.content_delta:
            break
    await stream.aclose()
    assert await asyncio.to_thread(provider.hung_up["endless"].wait, 10)


async def test_gemini_answers_as_any_other_provider(client, provider):
    answer = await client.chat("gemini")
    assert (answer.message.content, answer.finish_reason) == ("Good day.", "stop")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 4)
    exchange = provider.seen["gemini"][-1]
    assert (
        exchange.path.startswith("/models/gemini:generateContent") or "/models/gemini:generateContent" in exchange.path
    )
    assert exchange.body["generationConfig"]["max_output_tokens"] == 100


async def test_the_process_comes_back_when_it_was_killed(client, router):
    await client.chat("says")
    ready = [line for line in router.process.lines if line.get("event") == "litellm.ready"]
    os.kill(ready[-1]["pid"], signal.SIGKILL)
    await asyncio.to_thread(router.process.wait_for, "litellm.died")
    again = await asyncio.to_thread(_next_ready, router, len(ready))
    assert again["pid"] != ready[-1]["pid"]
    assert (await client.chat("says")).message.content == "Good day."


def _next_ready(router, seen):
    lines = [n for n, line in enumerate(router.process.lines) if line.get("event") == "litellm.ready"]
    return router.process.wait_for("litellm.ready", skip=lines[seen - 1] + 1)


def test_only_the_pinned_version_is_run():
    source = (REPOSITORY / "services/router/slipway_router/litellm_bridge/bridge.py").read_text()
    locked = (REPOSITORY / "requirements-litellm.txt").read_text()
    assert 'VERSION = "1.106.2"' in source
    assert "litellm==1.106.2" in locked


async def test_the_port_is_closed_to_whoever_does_not_know_the_secret(router):
    pid = [line["pid"] for line in router.process.lines if line.get("event") == "litellm.ready"][-1]
    port = _listening_port(pid)
    async with httpx.AsyncClient() as http:
        refused = await http.post(
            f"http://127.0.0.1:{port}/anthropic/chat/completions", json={"model": "says", "messages": []}
        )
    assert refused.status_code == 401


def _listening_port(pid):
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError("it listens nowhere")


# What the provider says, in its own words, and the classes in which it is paid: input, cached, written, images, output,
# reasoning.
REPORTS = {
    "claude, prompt cache": (
        "reports",
        {
            "input_tokens": 50,
            "cache_creation_input_tokens": 248,
            "cache_read_input_tokens": 1800,
            "cache_creation": {"ephemeral_5m_input_tokens": 248, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 503,
            "service_tier": "standard",
        },
        (50, 1800, 248, 0, 503, 0),
    ),
    "claude, plain": ("reports", {"input_tokens": 12, "output_tokens": 6}, (12, 0, 0, 0, 6, 0)),
    "gemini, plain": (
        "gemini-reports",
        {"promptTokenCount": 11, "candidatesTokenCount": 73, "totalTokenCount": 84},
        (11, 0, 0, 0, 73, 0),
    ),
    "gemini, thoughts": (
        "gemini-reports",
        {"promptTokenCount": 90, "candidatesTokenCount": 20, "thoughtsTokenCount": 300, "totalTokenCount": 410},
        (90, 0, 0, 0, 20, 300),
    ),
    "gemini, cache and an image": (
        "gemini-reports",
        {
            "promptTokenCount": 1290,
            "cachedContentTokenCount": 1000,
            "candidatesTokenCount": 20,
            "totalTokenCount": 1310,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1032}, {"modality": "IMAGE", "tokenCount": 258}],
            "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 1000}],
        },
        (32, 1000, 0, 258, 20, 0),
    ),
}


@pytest.mark.parametrize("name", REPORTS)
async def test_reported_tokens_are_paid_once_each_in_their_class(client, name):
    model, report, classes = REPORTS[name]
    usage = (await client.chat(model, text=json.dumps(report))).usage
    assert (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.image_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    ) == classes
    assert not usage.estimated
