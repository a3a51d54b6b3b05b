"""Declared HTTP tools against a real HTTP server."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from slipway_chassis.errors import ErrorKind, SlipwayError


async def test_arguments_go_out_as_json_with_the_effect_key_and_the_secret(
    alice: Any, target: Any, effect: Any, unique: Any
) -> None:
    path = f"/{unique('entries')}"
    await alice.put(
        "ledger.post",
        target.url + path,
        idempotent=True,
        http={"headers": {"Authorization": "secret:ledger-token", "X-Origin": "slipway"}},
        input_schema_json='{"type":"object","required":["amount"],"properties":{"amount":{"type":"number"}}}',
        output_schema_json='{"type":"object","required":["amount"]}',
    )
    key = f"{unique('run_')}/pay/1"
    answer = await alice.invoke("ledger.post", {"amount": 12.5, "note": "Zoë"}, effect=effect(key))
    assert not answer.HasField("error")
    assert json.loads(answer.output_json) == {"amount": 12.5, "note": "Zoë"}
    (request,) = target.to(path)
    assert (request.method, json.loads(request.body)) == ("POST", {"amount": 12.5, "note": "Zoë"})
    assert request.headers["idempotency-key"] == key
    assert request.headers["authorization"] == "Bearer s3cr3t-7f1c9a-ledger"
    assert request.headers["x-origin"] == "slipway"
    assert request.headers["host"] == f"127.0.0.1:{target.port}"


async def test_a_repeated_key_is_answered_from_the_record_and_an_older_epoch_is_refused(
    alice: Any, target: Any, effect: Any, unique: Any
) -> None:
    path = f"/{unique('once')}"
    await alice.put("once.post", target.url + path, idempotent=True)
    key = f"{unique('run_')}/pay/1"
    first = await alice.invoke("once.post", {"n": 1}, effect=effect(key, epoch=2))
    again = await alice.invoke("once.post", {"n": 1}, effect=effect(key, epoch=3))
    assert again == first
    assert len(target.to(path)) == 1
    with pytest.raises(SlipwayError) as stale:
        await alice.invoke("once.post", {"n": 1}, effect=effect(key, epoch=1))
    assert stale.value.reason == "STALE_EPOCH"
    with pytest.raises(SlipwayError) as reused:
        await alice.invoke("once.post", {"n": 2}, effect=effect(key, epoch=3))
    assert reused.value.reason == "EFFECT_KEY_REUSED"
    assert len(target.to(path)) == 1


async def test_a_recorded_failure_is_answered_again_and_a_higher_attempt_calls_again_with_the_same_key(
    alice: Any, target: Any, effect: Any, unique: Any, say: Any
) -> None:
    path = f"/{unique('flaky')}"
    target.answers[path] = say(503, retry_after="7")
    await alice.put("flaky.post", target.url + path, idempotent=True)
    key = f"{unique('run_')}/pay/1"
    failed = await alice.invoke("flaky.post", effect=effect(key))
    assert (failed.error.code, failed.error.retryable, failed.error.retry_after.seconds) == ("HTTP_STATUS", True, 7)
    assert await alice.invoke("flaky.post", effect=effect(key)) == failed
    assert len(target.to(path)) == 1
    del target.answers[path]
    done = await alice.invoke("flaky.post", effect=effect(key, attempt=2))
    assert not done.HasField("error")
    assert [request.headers["idempotency-key"] for request in target.to(path)] == [key, key]


@pytest.mark.parametrize(
    ("status", "idempotent", "retryable"),
    [
        (400, True, False),
        (404, True, False),
        (409, True, False),
        (408, True, True),
        (429, False, True),
        (503, False, True),
        (500, True, True),
        (500, False, False),
        (502, True, True),
        (504, True, True),
        (302, True, False),
    ],
)
async def test_statuses_are_errors_that_say_whether_trying_again_may_help(
    alice: Any, target: Any, unique: Any, effect: Any, say: Any, status: int, idempotent: bool, retryable: bool
) -> None:
    path = f"/{unique('status')}"
    target.answers[path] = say(status, b"details", location="http://169.254.169.254/")
    await alice.put("status.post", target.url + path, idempotent=idempotent)
    answer = await alice.invoke("status.post", effect=effect(f"{unique('run_')}/a/1"))
    assert (answer.error.code, answer.error.retryable) == ("HTTP_STATUS", retryable)
    assert str(status) in answer.error.message
    assert len(target.to(path)) == 1


async def test_a_date_in_retry_after_counts_from_now(alice: Any, target: Any, unique: Any, say: Any) -> None:
    path = f"/{unique('later')}"
    target.answers[path] = say(429, retry_after="Wed, 01 Jan 2200 00:00:00 GMT")
    await alice.put("later.post", target.url + path)
    answer = await alice.invoke("later.post")
    assert answer.error.retry_after.seconds == 3600


def cut_off(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
    handler.wfile.flush()
    handler.close_connection = True


@pytest.fixture
def hang() -> Any:
    """An answer that never comes, until the test is over."""
    over = threading.Event()
    yield lambda handler: over.wait(60)
    over.set()


async def test_a_lost_answer_of_an_idempotent_tool_may_be_asked_for_again(
    alice: Any, target: Any, unique: Any, effect: Any, hang: Any
) -> None:
    path = f"/{unique('lost')}"
    await alice.put("lost.put", target.url + path, idempotent=True, http={"timeout": {"nanos": 200_000_000}})
    target.answers[path] = cut_off
    answer = await alice.invoke("lost.put", effect=effect(f"{unique('run_')}/a/1"))
    assert (answer.error.code, answer.error.retryable) == ("CONNECTION_LOST", True)
    target.answers[path] = hang
    answer = await alice.invoke("lost.put", effect=effect(f"{unique('run_')}/a/1"))
    assert (answer.error.code, answer.error.retryable) == ("TIMEOUT", True)


@pytest.mark.parametrize("how", ["cut", "hang", "gateway"])
async def test_a_lost_answer_of_a_tool_that_keeps_no_key_is_uncertain_until_a_new_attempt_is_declared(
    alice: Any, target: Any, unique: Any, effect: Any, hang: Any, say: Any, how: str
) -> None:
    path = f"/{unique('unsure')}"
    await alice.put("unsure.post", target.url + path, idempotent=False, http={"timeout": {"nanos": 200_000_000}})
    target.answers[path] = {"cut": cut_off, "hang": hang, "gateway": say(504)}[how]
    key = f"{unique('run_')}/pay/1"
    for epoch in (1, 2):
        with pytest.raises(SlipwayError) as uncertain:
            await alice.invoke("unsure.post", effect=effect(key, epoch=epoch))
        assert (uncertain.value.kind, uncertain.value.reason) == (ErrorKind.ABORTED, "EFFECT_UNCERTAIN")
    assert len(target.to(path)) == 1
    del target.answers[path]
    answer = await alice.invoke("unsure.post", effect=effect(key, epoch=2, attempt=2))
    assert not answer.HasField("error")


async def test_nobody_listening_is_unreachable_and_certainly_not_done(
    alice: Any, start_tools: Any, client: Any, free_port: Callable[[], int], unique: Any, effect: Any
) -> None:
    port = free_port()
    tools = start_tools(HTTP_ALLOW=json.dumps([f"127.0.0.1:{port}"]))
    try:
        alice = client(tools.target)
        await alice.put("gone.post", f"http://127.0.0.1:{port}/", idempotent=False)
        answer = await alice.invoke("gone.post", effect=effect(f"{unique('run_')}/a/1"))
        assert (answer.error.code, answer.error.retryable) == ("UNREACHABLE", True)
    finally:
        tools.stop()


@pytest.mark.parametrize(
    ("body", "headers", "code", "says"),
    [
        (b"not json", {}, "INVALID_RESULT", "is not JSON"),
        (b'{"ok": "yes"}', {}, "INVALID_RESULT", "/ok"),
        (b"\xff", {}, "INVALID_RESULT", "UTF-8"),
        (b"{}", {"content_encoding": "gzip"}, "INVALID_RESULT", "compressed"),
        (b'"' + b"x" * (1 << 20) + b'"', {}, "OUTPUT_TOO_LARGE", "longer than"),
        (b"{}", {"content_length": str(10 << 30)}, "OUTPUT_TOO_LARGE", "longer than"),
    ],
)
async def test_an_answer_that_is_not_what_was_declared_is_an_error(
    alice: Any, target: Any, unique: Any, say: Any, body: bytes, headers: dict[str, str], code: str, says: str
) -> None:
    path = f"/{unique('odd')}"
    target.answers[path] = say(200, body, **headers)
    schema = '{"type":"object","properties":{"ok":{"type":"boolean"}}}'
    await alice.put("odd.post", target.url + path, output_schema_json=schema)
    answer = await alice.invoke("odd.post")
    assert answer.error.code == code
    assert says in answer.error.message
    assert answer.output_json == ""


async def test_an_empty_answer_is_null(alice: Any, target: Any, unique: Any, say: Any) -> None:
    path = f"/{unique('empty')}"
    target.answers[path] = say(200, b"")
    await alice.put("empty.post", target.url + path)
    assert (await alice.invoke("empty.post")).output_json == "null"


async def test_a_get_tool_fills_its_path_and_query_from_the_arguments(alice: Any, target: Any, unique: Any) -> None:
    stem = f"/{unique('orders')}"
    await alice.put(
        "order.get",
        target.url + stem + "/{id}/lines?v=1",
        http={"method": "GET"},
        input_schema_json='{"type":"object","required":["id"],"properties":{"id":{"type":"string"}}}',
    )
    await alice.invoke("order.get", {"id": "a b?c#d%2F", "tag": ["x", "y&z"], "n": 5, "flag": True, "none": None})
    (request,) = [request for request in target.received if request.path.startswith(stem)]
    assert request.path == f"{stem}/a%20b%3Fc%23d%252F/lines?v=1&tag=x&tag=y%26z&n=5&flag=true"
    assert request.body == b""
    for bad in ("..", ".", "", "a/b", "a\\b"):
        with pytest.raises(SlipwayError) as refused:
            await alice.invoke("order.get", {"id": bad})
        assert refused.value.violations[0].field == "/id"


async def test_an_address_that_is_not_public_is_refused_before_anything_is_fetched(
    alice: Any, target: Any, unique: Any
) -> None:
    received = len(target.received)
    hosts = ("localhost", "127.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "2130706433", "0")
    for host in hosts:
        name = unique("private")
        # The right port, so that a fetch would be seen.
        await alice.put(name, f"https://{host}:{target.port}/")
        with pytest.raises(SlipwayError) as refused:
            await alice.invoke(name)
        assert (refused.value.kind, refused.value.reason) == (ErrorKind.PERMISSION_DENIED, "ADDRESS_NOT_ALLOWED"), host
    assert len(target.received) == received


async def test_a_proxy_of_the_environment_is_not_used(
    start_tools: Any, client: Any, target: Any, unique: Any, free_port: Callable[[], int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            patch.setenv(name, f"http://127.0.0.1:{free_port()}")
        tools = start_tools()
    try:
        alice = client(tools.target)
        await alice.put("direct.post", f"{target.url}/{unique('direct')}")
        assert not (await alice.invoke("direct.post")).HasField("error")
    finally:
        tools.stop()
