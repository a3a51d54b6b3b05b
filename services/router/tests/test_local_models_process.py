"""The local models over their own HTTP: refusals, hang-ups, idleness."""

import asyncio
import contextlib
import json
import subprocess
import sys

import httpx
import psutil
import pytest

CHAT = "SmolLM2-135M-Instruct-Q4_1"
EMBED = "all-MiniLM-L6-v2-int8"


@pytest.fixture
async def http(local_models):
    async with httpx.AsyncClient(
        base_url=local_models, headers={"authorization": "Bearer local-key"}, timeout=60
    ) as client:
        yield client


def body(**fields):
    return {"model": CHAT, "messages": [{"role": "user", "content": "Say hello."}], **fields}


@pytest.mark.parametrize(
    ("path", "payload", "status", "words"),
    [
        ("chat/completions", body(model="gpt-4"), 404, CHAT),
        ("chat/completions", body(messages=[]), 400, "messages"),
        ("chat/completions", body(max_tokens=100_000), 400, "max_tokens"),
        ("chat/completions", body(tools=[{"type": "function"}]), 400, "tools"),
        ("chat/completions", body(n=2), 400, "n must be 1"),
        ("chat/completions", body(temperature="hot"), 400, "temperature"),
        ("chat/completions", body(messages=[{"role": "user", "content": 3}]), 400, "content"),
        ("chat/completions", body(messages=[{"role": "user", "content": "word " * 6000}]), 400, "context"),
        ("chat/completions", body(messages=[{"role": "user", "content": "word " * 6000}], stream=True), 400, "context"),
        ("embeddings", {"model": EMBED, "input": []}, 400, "input"),
        ("embeddings", {"model": EMBED, "input": [""]}, 400, "non-empty"),
        ("embeddings", {"model": EMBED, "input": [1, 2]}, 400, "non-empty"),
        ("embeddings", [], 400, "object"),
    ],
)
async def test_a_wrong_request_is_refused_with_its_reason(http, path, payload, status, words):
    answer = await http.post(path, json=payload)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


async def test_a_wrong_key_is_refused_and_health_is_open(local_models):
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{local_models}/chat/completions", json=body())).status_code == 401
        assert (await client.get(local_models.replace("/v1", "/health"))).json() == {"status": "ok"}


async def test_a_text_beyond_256_word_pieces_is_cut_and_the_answer_says_so(http):
    answer = await http.post("embeddings", json={"model": EMBED, "input": ["word " * 1000, "short"]})
    assert answer.headers["x-slipway-truncated-inputs"] == "1"
    assert answer.json()["usage"]["prompt_tokens"] == 256 + 3


async def test_base64_and_list_vectors_are_the_same(http):
    listed = (await http.post("embeddings", json={"model": EMBED, "input": "refund"})).json()["data"][0]["embedding"]
    import base64
    from array import array

    packed = await http.post("embeddings", json={"model": EMBED, "input": "refund", "encoding_format": "base64"})
    values = array("f", base64.b64decode(packed.json()["data"][0]["embedding"]))
    assert list(values) == pytest.approx(listed, abs=1e-6)


async def test_the_same_seed_gives_the_same_answer(http):
    one, other = [
        (await http.post("chat/completions", json=body(seed=3, temperature=1, max_tokens=12))).json() for _ in "ab"
    ]
    assert one["choices"] == other["choices"]


async def test_more_requests_than_may_wait_are_told_to_come_back(http):
    answers = await asyncio.gather(*(http.post("chat/completions", json=body(max_tokens=1)) for _ in range(45)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 34
    assert {answer.headers.get("retry-after") for answer in answers if answer.status_code == 429} == {"1"}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_hangs_up_stops_the_generation(http, local_models_process, stream, eventually):
    process = psutil.Process(local_models_process.pid)
    payload = body(messages=[{"role": "user", "content": "Tell a very long story."}], max_tokens=1000, stream=stream)
    with contextlib.suppress(httpx.ReadTimeout):
        async with http.stream("POST", "chat/completions", json=payload, timeout=0.7) as answer:
            await anext(answer.aiter_bytes())

    async def idle():
        before = sum(process.cpu_times()[:2])
        await asyncio.sleep(0.3)
        return sum(process.cpu_times()[:2]) - before <= 0.02

    # A thousand tokens would keep two cores busy for ten seconds and more.
    await eventually(idle, timeout=8)


@pytest.mark.parametrize(
    ("listen", "words"),
    [("0.0.0.0:0", "API_KEY is required"), ("localhost:0", "IP address"), ("127.0.0.1", "host:port")],
)
def test_an_unsafe_or_wrong_address_is_refused(listen, words):
    done = subprocess.run(
        [sys.executable, "-m", "slipway_router.local_models"],
        env={"SLIPWAY_LOCAL_MODELS_LISTEN": listen},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert json.dumps("SLIPWAY_LOCAL_MODELS")[1:-1] in done.stderr
