"""Requests and answers over a real connection."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from slipway_client import (
    ApiError,
    Client,
    ConflictError,
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
    UnexpectedAnswerError,
)
from slipway_testkit.scripted_server import ScriptedServer, answers

RUN = {"run_id": "run_01", "state": "QUEUED", "usage": {"cost_usd": 0.000125}}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, UnauthenticatedError),
        (402, ApiError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, InvalidRequestError),
        (422, InvalidRequestError),
        (429, RateLimitedError),
        (500, ApiError),
        (502, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
    ],
)
def test_a_problem_raises_the_class_of_its_status(
    gateway: ScriptedServer, client: Client, status: int, kind: type[ApiError]
) -> None:
    problem = {
        "title": "No",
        "detail": "the input is not what the agent takes",
        "code": "RUN_INPUT_INVALID",
        "field": "input.order_id",
        "violations": [{"field": "input.order_id", "message": "is required"}],
        "trace_id": "4bf92f35",
    }
    gateway.then(answers(problem, status, retry_after="7"))
    with pytest.raises(ApiError) as raised:
        client.runs.get("run_01")
    error = raised.value
    assert type(error) is kind
    assert (error.status, error.code, error.field, error.trace_id) == (
        status,
        "RUN_INPUT_INVALID",
        "input.order_id",
        "4bf92f35",
    )
    assert error.retry_after == 7
    assert str(error) == "the input is not what the agent takes [RUN_INPUT_INVALID]\n  input.order_id: is required"


def test_an_error_that_is_no_problem_keeps_its_words(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(b"<h1>Bad Gateway</h1>", 502, content_type="text/html"))
    with pytest.raises(UnavailableError, match="<h1>Bad Gateway</h1>") as raised:
        client.runs.get("run_01")
    assert raised.value.code == "UNKNOWN"


def test_a_problem_in_place_of_a_download_is_raised(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"detail": "there is no run run_01", "code": "RUN_NOT_FOUND"}, 404))
    with pytest.raises(NotFoundError, match="RUN_NOT_FOUND"):
        client.audit.evidence("run_01")


def test_a_gateway_that_is_not_there_is_a_failed_connection_that_names_the_address(gateway: ScriptedServer) -> None:
    gateway.close()
    with Client(gateway.url, "t") as client, pytest.raises(ConnectionFailedError, match=gateway.url):
        client.whoami()


def test_a_gateway_that_says_nothing_in_time_is_a_failed_connection(gateway: ScriptedServer) -> None:
    gateway.then(lambda handler: handler.rfile.read(1))
    with Client(gateway.url, "t", timeout=0.3) as client, pytest.raises(ConnectionFailedError, match="timed out"):
        client.whoami()


@pytest.mark.parametrize(
    ("body", "said"),
    [(b"<html>welcome</html>", "address of a Slipway gateway"), (b'{"hello": 1}', "no WhoAmI"), (b"[]", "no WhoAmI")],
)
def test_an_answer_of_something_else_is_told_apart(
    gateway: ScriptedServer, client: Client, body: bytes, said: str
) -> None:
    gateway.then(answers(body))
    with pytest.raises(UnexpectedAnswerError, match=said):
        client.whoami()


def test_a_page_without_its_items_is_told_apart(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"rows": []}))
    with pytest.raises(UnexpectedAnswerError, match="no list of runs"):
        list(client.runs.list())


def test_a_redirect_is_not_followed_with_the_token(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(b"", 307, location="https://elsewhere.example/v1/whoami"))
    with pytest.raises(UnexpectedAnswerError, match=r"https://elsewhere\.example/v1/whoami"):
        client.whoami()


def test_the_token_function_is_asked_before_each_request(gateway: ScriptedServer) -> None:
    tokens = iter(["first", "second"])
    gateway.then(answers(RUN), answers(RUN))
    with Client(gateway.url, lambda: next(tokens)) as client:
        client.runs.get("run_01")
        client.runs.get("run_01")
    assert [asked.headers["authorization"] for asked in gateway.asked] == ["Bearer first", "Bearer second"]


def test_a_given_idempotency_key_is_sent_as_it_is_and_others_are_never_the_same(
    gateway: ScriptedServer, client: Client
) -> None:
    gateway.then(*[answers(RUN, 202)] * 4)
    client.runs.start("desk", {"n": 1}, idempotency_key="order-1042")
    client.runs.start("desk", {"n": 1}, idempotency_key="order-1042")
    client.runs.start("desk", {"n": 1})
    client.runs.start("desk", {"n": 1})
    keys = [asked.headers["idempotency-key"] for asked in gateway.asked]
    assert keys[:2] == ["order-1042", "order-1042"]
    assert len(set(keys)) == 3
    assert all(keys)


def test_a_start_that_waits_says_so_and_has_time_for_it(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(RUN))
    run = client.runs.start("desk", {"n": 1}, labels={"team": "support"}, wait=20)
    (asked,) = gateway.asked
    assert asked.headers["prefer"] == "wait=20"
    assert json.loads(asked.body) == {"input": {"n": 1}, "labels": {"team": "support"}}
    assert run.usage.cost_usd == Decimal("0.000125")


def test_listings_go_on_to_the_last_page_and_keep_their_filter(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(
        answers({"runs": [{**RUN, "run_id": "run_3"}, {**RUN, "run_id": "run_2"}], "next_page_token": "a+b/c="}),
        answers({"runs": [], "next_page_token": "d"}),
        answers({"runs": [{**RUN, "run_id": "run_1"}]}),
    )
    assert [run.run_id for run in client.runs.list(agent="desk")] == ["run_3", "run_2", "run_1"]
    assert [asked.path for asked in gateway.asked] == [
        "/v1/runs?agent=desk",
        "/v1/runs?agent=desk&page_token=a%2Bb%2Fc%3D",
        "/v1/runs?agent=desk&page_token=d",
    ]


def test_a_listing_asks_for_no_page_that_nobody_reads(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"runs": [RUN, RUN], "next_page_token": "more"}))
    assert next(client.runs.list()).run_id == "run_01"
    assert len(gateway.asked) == 1


def test_a_document_is_uploaded_with_its_name_readers_and_metadata(
    gateway: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    file = tmp_path / "travel.md"
    file.write_text("# Travel\n")
    gateway.then(answers({"collection": "c", "document": "d", "state": "INDEXING"}, 201))
    document = client.knowledge.put_document(
        "c", "d", file, title="Travel", readers=["role:operator"], metadata={"year": "2026"}
    )
    (asked,) = gateway.asked
    assert document.state == "INDEXING"
    assert asked.headers["content-type"].startswith("multipart/form-data; boundary=")
    for part in (b'filename="travel.md"', b"# Travel\n", b'["role:operator"]', b'{"year": "2026"}', b"Travel"):
        assert part in asked.body


def test_what_stands_in_a_name_cannot_lead_to_another_route(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(b"", 204), answers(b"", 204))
    client.knowledge.delete_document("c", "why? 100% of #1.md")
    client.knowledge.delete_document("c", "../../agents/desk")
    assert [asked.path for asked in gateway.asked] == [
        "/v1/collections/c/documents/why%3F%20100%25%20of%20%231.md",
        "/v1/collections/c/documents/..%2F..%2Fagents%2Fdesk",
    ]


def test_fields_of_a_newer_gateway_do_no_harm(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({**RUN, "mood": "good"}))
    assert client.runs.get("run_01").model_dump()["mood"] == "good"


def test_a_decision_carries_the_digest_of_what_was_shown(gateway: ScriptedServer, client: Client) -> None:
    shown = {"approval_id": "apr_1", "run_id": "run_01", "state": "PENDING", "arguments_digest": "sha256:ab"}
    gateway.then(answers(shown), answers({**shown, "state": "APPROVED"}))
    decided = client.approvals.decide(client.approvals.get("apr_1"), "approve", message="checked")
    assert decided.state == "APPROVED"
    assert json.loads(gateway.asked[1].body) == {
        "decision": "approve",
        "arguments_digest": "sha256:ab",
        "message": "checked",
    }


def test_a_proxy_of_the_environment_has_no_say_on_the_way_to_this_machine(
    gateway: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    gateway.then(answers(RUN))
    with Client(gateway.url, "t") as client:
        assert client.runs.get("run_01").run_id == "run_01"


def test_the_secret_of_a_new_key_is_in_no_log_line_of_it(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"key_id": "key_1", "key": "sk-slip-hush"}, 201))
    key = client.api_keys.create("ci", ["operator"])
    assert key.key == "sk-slip-hush"
    assert "hush" not in repr(key)


def test_a_fork_keeps_the_input_unless_another_is_given(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(RUN), answers(RUN))
    client.runs.fork("run_01", 4, version=2)
    client.runs.fork("run_01", 4, input=None, labels={"a": "b"})
    assert [json.loads(one.body) for one in gateway.asked] == [
        {"seq": 4, "version": 2},
        {"seq": 4, "input": None, "labels": {"a": "b"}},
    ]


def test_a_bulk_cancel_sends_only_what_is_filtered_by(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"count": 1000, "more": True}))
    cancelled = client.runs.cancel_many(labels={"batch": "7"}, limit=1000)
    assert (cancelled.count, cancelled.more) == (1000, True)
    sent = json.loads(gateway.asked[0].body)
    assert sent == {"labels": {"batch": "7"}, "reason": "", "force": False, "limit": 1000}
