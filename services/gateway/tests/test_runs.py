"""Starting, following and deciding runs over HTTP."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import Aborted, FieldViolation, InvalidArgument, NotFound, PermissionDenied, Unavailable

RUN = "run_01jd0000000000000000000000"


def run(state: int = pb.RUN_STATE_QUEUED, last_seq: int = 1) -> pb.Run:
    message = pb.Run(
        run_id=RUN,
        agent="refund-desk",
        version=3,
        state=state,
        input_json='{"a": 1}',
        caller="alice",
        last_seq=last_seq,
    )
    message.create_time.FromJsonString("2026-01-02T03:04:05.678Z")
    message.usage.cost.currency_code = "USD"
    message.usage.cost.nanos = 1_500_000
    if state == pb.RUN_STATE_SUCCEEDED:
        message.output_json = '{"reply": "done"}'
    return message


def event(seq: int, kind: str, **data: Any) -> pb.WatchRunResponse:
    return pb.WatchRunResponse(event=pb.RunEvent(seq=seq, kind=kind, step_id="pay", data_json=json.dumps(data)))


def delta(text: str) -> pb.WatchRunResponse:
    return pb.WatchRunResponse(delta=pb.ModelDelta(step_id="answer", attempt=1, offset=0, text=text))


def frames(text: str) -> list[dict[str, str]]:
    """Server-sent events as a client of the standard sees them; comments under `:`."""
    blocks = text.split("\n\n")[:-1]
    fields = [[line.partition(":") for line in block.split("\n")] for block in blocks]
    return [{name: value.removeprefix(" ") for name, _, value in block} for block in fields]


def follow(client: Any, **headers: str) -> httpx.Response:
    return client.get(f"/v1/runs/{RUN}/events", headers={"Accept": "text/event-stream", **headers})


def test_a_run_starts_in_the_callers_name_with_everything_that_was_sent(services: Any, alice: Any) -> None:
    services.on("StartRun", lambda call: pb.StartRunResponse(run=run()))
    answer = alice.post(
        "/v1/agents/refund-desk/runs",
        json={
            "input": {"a": [1, None, "ü"]},
            "labels": {"team": "x"},
            "priority": 5,
            "not_before": "2027-01-01T00:00:00+01:00",
        },
        headers={"Idempotency-Key": "once-only"},
    )
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["location"] == f"/v1/runs/{RUN}"
    assert body["state"] == "QUEUED"
    assert body["input"] == {"a": 1}
    assert body["create_time"] == "2026-01-02T03:04:05.678000Z"
    assert body["usage"]["cost_usd"] == 0.0015
    call = services.last("StartRun")
    assert call.caller.subject == "alice"
    assert call.caller.tenant == "acme"
    assert 0 < call.seconds_left < 16
    assert call.request.request_id == "once-only"
    assert json.loads(call.request.input_json) == {"a": [1, None, "ü"]}
    assert call.request.labels == {"team": "x"}
    assert call.request.priority == 5
    assert call.request.not_before.ToJsonString() == "2026-12-31T23:00:00Z"
    assert call.request.run_grant.count(".") == 2


def test_the_trace_of_the_client_goes_on_in_the_services(services: Any, alice: Any) -> None:
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run()))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    alice.get(f"/v1/runs/{RUN}", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert services.last("GetRun").metadata["traceparent"].split("-")[1] == trace


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": {}, "version": 0}, "version"),
        ({"input": {}, "priority": 10}, "priority"),
        ({"input": {}, "labels": {"a": 1}}, "labels.a"),
        ({"input": {}, "not_before": "2027-01-01T00:00:00"}, "not_before"),
        ({"input": {}, "not_before": "soon"}, "not_before"),
        ({"input": {}, "sesion_id": "x"}, "sesion_id"),
    ],
)
def test_a_wrong_field_is_named(alice: Any, services: Any, body: dict[str, Any], field: str) -> None:
    answer = alice.post("/v1/agents/refund-desk/runs", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert services.asked("StartRun") == 0


@pytest.mark.parametrize("key", ["", "x" * 256, "with space", "ümlaut"])
def test_an_idempotency_key_has_bounds(alice: Any, key: str) -> None:
    answer = alice.post("/v1/agents/refund-desk/runs", json={"input": {}}, headers={b"Idempotency-Key": key.encode()})
    assert answer.status_code == 422
    assert answer.json()["field"].lower() == "idempotency-key"


def test_prefer_wait_answers_with_the_end_when_it_comes_in_time(services: Any, alice: Any) -> None:
    services.on("StartRun", lambda call: pb.StartRunResponse(run=run()))
    services.on("WatchRun", lambda call: iter([event(1, "run.started"), event(2, "run.succeeded")]))
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_SUCCEEDED, 2)))
    answer = alice.post("/v1/agents/refund-desk/runs", json={"input": {}}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.json()["output"] == {"reply": "done"}


def test_prefer_wait_answers_202_when_the_run_takes_longer(services: Any, alice: Any) -> None:
    def watch(call: Any) -> Iterator[Any]:
        yield event(1, "run.started")
        call.cancelled.wait(20)

    services.on("StartRun", lambda call: pb.StartRunResponse(run=run()))
    services.on("WatchRun", watch)
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING)))
    started = time.monotonic()
    answer = alice.post("/v1/agents/refund-desk/runs", json={"input": {}}, headers={"Prefer": "respond-async, wait=1"})
    assert answer.status_code == 202
    assert answer.json()["state"] == "RUNNING"
    assert time.monotonic() - started < 10
    assert alice.post("/v1/agents/x/runs", json={}, headers={"Prefer": "wait=soon"}).status_code == 400


def test_errors_of_a_service_become_problems(services: Any, alice: Any) -> None:
    class NoSuchRun(NotFound):
        reason = "RUN_NOT_FOUND"

    def missing(call: Any) -> Any:
        raise NoSuchRun(f"there is no run {call.request.run_id}", metadata={"run_id": call.request.run_id})

    services.on("GetRun", missing)
    answer = alice.get(f"/v1/runs/{RUN}")
    assert answer.status_code == 404
    problem = answer.json()
    assert problem["code"] == "RUN_NOT_FOUND"
    assert problem["metadata"] == {"run_id": RUN}
    assert problem["trace_id"] == "0" * 31 + "7", "the trace that the service named"
    assert problem["type"] == "https://slipway.dev/problems/run-not-found"
    assert "error" not in problem


def test_violations_of_a_service_reach_the_client(services: Any, alice: Any) -> None:
    class AgentInvalid(InvalidArgument):
        reason = "AGENT_INVALID"

    def invalid(call: Any) -> Any:
        raise AgentInvalid(
            "wrong", violations=[FieldViolation("spec.steps[2].tool", "unknown"), FieldViolation("b", "c")]
        )

    services.on("PutAgent", invalid)
    answer = alice.put("/v1/agents/a", content="kind: Agent", headers={"content-type": "application/yaml"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "spec.steps[2].tool"
    assert answer.json()["violations"][1] == {"field": "b", "message": "c"}


def test_a_tools_wrong_argument_is_named_like_every_other_field(services: Any, alice: Any) -> None:
    def refuse(call: Any) -> Any:
        places = [FieldViolation(place, "wrong") for place in ("/", "/rows/0/a~1b")]
        raise InvalidArgument("the arguments do not fit", violations=places)

    services.on("InvokeTool", refuse)
    problem = alice.post("/v1/tools/python/invoke", json={"arguments": {}}).json()
    assert [item["field"] for item in problem["violations"]] == ["arguments", "arguments.rows[0].a/b"]


def test_a_service_that_is_away_is_503_and_a_crash_shows_nothing(
    services: Any, alice: Any, other_gateway: Callable[..., Any], issuer: Any, free_port: Callable[[], int]
) -> None:
    services.on("GetRun", lambda call: 1 / 0)
    crashed = alice.get(f"/v1/runs/{RUN}")
    assert crashed.status_code == 500
    assert "ZeroDivision" not in crashed.text
    assert "division" not in crashed.text
    lonely = other_gateway(ORCHESTRATOR_TARGET=f"127.0.0.1:{free_port()}")
    answer = httpx.get(f"{lonely.url}/v1/runs", headers={"Authorization": f"Bearer {issuer.token('alice')}"})
    assert answer.status_code == 503
    assert "127.0.0.1" not in answer.text
    # It is named, and the gateway stays ready for what does not need it.
    deadline = time.monotonic() + 30
    while "orchestrator" not in (ready := httpx.get(f"{lonely.url}/readyz")).json()["degraded"]:
        assert time.monotonic() < deadline, ready.text
        time.sleep(0.1)
    assert ready.status_code == 200
    assert ready.json()["degraded"]["orchestrator"] == "NoAnswer"


def test_events_come_in_pages(services: Any, alice: Any) -> None:
    def page(call: Any) -> Any:
        first = call.request.after_seq + 1
        events = [pb.RunEvent(seq=seq, kind="step.started", data_json="{}") for seq in range(first, first + 2)]
        return pb.ListRunEventsResponse(events=events, more=first < 3)

    services.on("ListRunEvents", page)
    first = alice.get(f"/v1/runs/{RUN}/events?page_size=2").json()
    assert [item["seq"] for item in first["events"]] == [1, 2]
    second = alice.get(f"/v1/runs/{RUN}/events", params={"page_token": first["next_page_token"]}).json()
    assert [item["seq"] for item in second["events"]] == [3, 4]
    assert second["next_page_token"] is None
    assert alice.get(f"/v1/runs/{RUN}/events", params={"page_token": "x"}).json()["field"] == "page_token"


def test_a_followed_run_is_framed_as_events_and_ends_after_the_terminal_one(services: Any, alice: Any) -> None:
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING)))
    services.on(
        "WatchRun",
        lambda call: iter(
            [event(1, "run.started"), delta("Hel\nlo"), event(2, "step.completed", x=1), event(3, "run.succeeded")]
        ),
    )
    answer = follow(alice)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    events = [frame for frame in frames(answer.text) if "data" in frame]
    assert [frame.get("id") for frame in events] == ["1", None, "2", "3"]
    assert [frame["event"] for frame in events] == ["run.started", "model.delta", "step.completed", "run.succeeded"]
    assert json.loads(events[1]["data"]) == {"step_id": "answer", "attempt": 1, "offset": 0, "text": "Hel\nlo"}
    assert json.loads(events[2]["data"])["data"] == {"x": 1}
    assert services.last("WatchRun").request.include_deltas


@pytest.mark.parametrize(("last", "after"), [("2", 2), ("", 0), (None, 0)])
def test_following_resumes_after_the_last_event_seen(services: Any, alice: Any, last: str | None, after: int) -> None:
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING, last_seq=2)))
    services.on("WatchRun", lambda call: iter([event(3, "run.failed")]))
    headers = {} if last is None else {"Last-Event-ID": last}
    assert follow(alice, **headers).status_code == 200
    assert services.last("WatchRun").request.after_seq == after


def test_what_is_wrong_with_following_is_a_problem_and_not_a_stream(services: Any, alice: Any) -> None:
    def missing(call: Any) -> Any:
        raise NotFound("no run")

    for wrong in ("x", "-1", "1.5", "9" * 30):
        answer = follow(alice, **{"Last-Event-ID": wrong})
        assert answer.status_code == 422
        assert answer.json()["field"] == "Last-Event-ID"
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING, last_seq=7)))
    future = follow(alice, **{"Last-Event-ID": "8"})
    assert (future.status_code, future.json()["code"]) == (422, "EVENT_NOT_YET")
    services.on("GetRun", missing)
    assert follow(alice).status_code == 404


def test_a_finished_run_whose_end_was_seen_is_204_so_that_browsers_stop(services: Any, alice: Any) -> None:
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_SUCCEEDED, last_seq=7)))
    assert follow(alice, **{"Last-Event-ID": "7"}).status_code == 204
    assert services.asked("WatchRun") == 0


def test_a_watch_that_breaks_is_taken_up_where_it_ended(services: Any, alice: Any) -> None:
    def watch(call: Any) -> Iterator[Any]:
        if call.request.after_seq == 0:
            yield event(1, "run.started")
            yield event(2, "step.started")
            raise Unavailable("the orchestrator restarts", retry_after=0.1)
        yield event(2, "step.started")
        yield event(3, "run.succeeded")

    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING)))
    services.on("WatchRun", watch)
    events = [frame["id"] for frame in frames(follow(alice).text) if "id" in frame]
    assert events == ["1", "2", "3"], "nothing is missing and nothing comes twice"
    assert services.last("WatchRun").request.after_seq == 2


def test_a_client_that_goes_away_ends_the_watch_behind_it(services: Any, alice: Any) -> None:
    calls: list[Any] = []

    def watch(call: Any) -> Iterator[Any]:
        calls.append(call)
        yield event(1, "run.started")
        call.cancelled.wait(30)

    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING)))
    services.on("WatchRun", watch)
    with alice.stream("GET", f"/v1/runs/{RUN}/events", headers={"Accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("id: 1"):
                break
    assert calls[0].cancelled.wait(10)


def test_silence_is_filled_with_comments(services: Any, other_gateway: Callable[..., Any], issuer: Any) -> None:
    release = threading.Event()

    def watch(call: Any) -> Iterator[Any]:
        release.wait(30)
        yield event(1, "run.succeeded")

    services.on("GetRun", lambda call: pb.GetRunResponse(run=run(pb.RUN_STATE_RUNNING)))
    services.on("WatchRun", watch)
    quick = other_gateway(HEARTBEAT="0.2")
    headers = {"Authorization": f"Bearer {issuer.token('alice')}", "Accept": "text/event-stream"}
    comments = 0
    with httpx.stream("GET", f"{quick.url}/v1/runs/{RUN}/events", headers=headers, timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith(":"):
                comments += 1
            if comments == 4:
                release.set()
            if line.startswith("event: run.succeeded"):
                break
    assert comments >= 4


def test_decisions_carry_the_digest_and_the_new_arguments(services: Any, alice: Any) -> None:
    shown = pb.Approval(
        approval_id="apr_1", state=pb.APPROVAL_STATE_PENDING, arguments_json="[1]", arguments_digest="sha256:x"
    )
    services.on("GetApproval", lambda call: pb.GetApprovalResponse(approval=shown))
    services.on("DecideApproval", lambda call: pb.DecideApprovalResponse(approval=shown))
    assert alice.get("/v1/approvals/apr_1").json()["arguments"] == [1]
    edit = {"decision": "edit", "arguments_digest": "sha256:x", "arguments": {"amount": 5}}
    assert alice.post("/v1/approvals/apr_1/decide", json=edit, headers={"Idempotency-Key": "k"}).status_code == 200
    request = services.last("DecideApproval").request
    assert request.decision == pb.DECISION_EDIT
    assert request.arguments_digest == "sha256:x"
    assert json.loads(request.arguments_json) == {"amount": 5}
    assert request.request_id == "k"
    respond = {"decision": "respond", "arguments_digest": "sha256:x", "arguments": None}
    assert alice.post("/v1/approvals/apr_1/decide", json=respond).status_code == 200
    assert services.last("DecideApproval").request.arguments_json == "null"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"decision": "approve"}, "arguments_digest"),
        ({"decision": "maybe", "arguments_digest": "x"}, "decision"),
        ({"decision": "edit", "arguments_digest": "x"}, "arguments"),
        ({"decision": "approve", "arguments_digest": "x", "arguments": {}}, "arguments"),
    ],
)
def test_an_unclear_decision_is_refused(alice: Any, services: Any, body: dict[str, Any], field: str) -> None:
    answer = alice.post("/v1/approvals/apr_1/decide", json=body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert services.asked("DecideApproval") == 0


@pytest.mark.parametrize(
    ("error", "reason", "status"),
    [
        (Aborted, "ARGUMENTS_CHANGED", 409),
        (Aborted, "APPROVAL_ALREADY_DECIDED", 409),
        (PermissionDenied, "PROPOSER_IS_APPROVER", 403),
    ],
)
def test_a_decision_that_does_not_count_says_why(
    alice: Any, services: Any, error: type, reason: str, status: int
) -> None:
    kind = type(reason, (error,), {"reason": reason})

    def refuse(call: Any) -> Any:
        raise kind("no")

    services.on("DecideApproval", refuse)
    answer = alice.post("/v1/approvals/apr_1/decide", json={"decision": "approve", "arguments_digest": "x"})
    assert answer.status_code == status
    assert answer.json()["code"] == reason
    assert answer.headers.get("x-should-retry") == ("false" if status == 409 else None)


def test_approvals_are_listed_by_state(alice: Any, services: Any) -> None:
    services.on(
        "ListApprovals", lambda call: pb.ListApprovalsResponse(approvals=[pb.Approval(approval_id="apr_1", state=1)])
    )
    answer = alice.get("/v1/approvals?state=pending")
    assert answer.json()["approvals"][0]["state"] == "PENDING"
    assert list(services.last("ListApprovals").request.states) == [pb.APPROVAL_STATE_PENDING]
    assert alice.get("/v1/approvals?state=someday").json()["field"] == "state"


def test_runs_are_listed_by_agent_state_and_label(alice: Any, services: Any) -> None:
    services.on("ListRuns", lambda call: pb.ListRunsResponse(runs=[run()], next_page_token="more"))
    query = {"agent": "a", "state": ["FAILED", "QUEUED"], "label": "team:x=y", "page_size": 7, "page_token": "t"}
    answer = alice.get("/v1/runs", params=query).json()
    assert answer["next_page_token"] == "more"
    request = services.last("ListRuns").request
    assert list(request.states) == [pb.RUN_STATE_FAILED, pb.RUN_STATE_QUEUED]
    assert request.labels == {"team": "x=y"}
    assert (request.agent, request.page_size, request.page_token) == ("a", 7, "t")
    assert alice.get("/v1/runs?state=DONE").status_code == 422
    assert alice.get("/v1/runs?label=x").json()["field"] == "label"
