"""Steering runs, kill switches and schedules over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2 as pb
from slipway.runs.v1 import schedules_pb2
from slipway_chassis.errors import FailedPrecondition, FieldViolation, InvalidArgument

RUN = "run_01jd0000000000000000000000"


class RunEnded(FailedPrecondition):
    reason = "RUN_ENDED"


class LimitNotRaised(InvalidArgument):
    reason = "LIMIT_NOT_RAISED"


def run(**more: Any) -> pb.Run:
    return pb.Run(run_id=RUN, agent="refund-desk", version=3, state=pb.RUN_STATE_PAUSED, last_seq=7, **more)


@pytest.mark.parametrize(
    ("verb", "body", "rpc", "sent"),
    [
        ("cancel", {"reason": "r", "force": True}, "CancelRun", pb.CancelRunRequest(reason="r", force=True)),
        ("pause", {"reason": "r"}, "PauseRun", pb.PauseRunRequest(reason="r")),
        ("resume", None, "ResumeRun", pb.ResumeRunRequest()),
        (
            "signal",
            {"name": "paid", "payload": {"n": [1, None]}},
            "SignalRun",
            pb.SignalRunRequest(name="paid", payload_json='{"n":[1,null]}'),
        ),
    ],
)
def test_a_verb_is_handed_on_and_answers_with_the_run(
    services: Any, alice: Any, verb: str, body: Any, rpc: str, sent: Any
) -> None:
    response = {
        "CancelRun": pb.CancelRunResponse,
        "PauseRun": pb.PauseRunResponse,
        "ResumeRun": pb.ResumeRunResponse,
        "SignalRun": pb.SignalRunResponse,
    }[rpc]
    services.on(rpc, lambda call: response(run=run()))
    answer = alice.post(f"/v1/runs/{RUN}/{verb}", json=body, headers={"Idempotency-Key": "k1"})
    assert (answer.status_code, answer.json()["run_id"]) == (202, RUN)
    sent.run_id, sent.request_id = RUN, "k1"
    assert services.last(rpc).request == sent


def test_limits_are_handed_on_in_the_contracts_types(services: Any, alice: Any) -> None:
    services.on("RaiseRunLimits", lambda call: pb.RaiseRunLimitsResponse(run=run()))
    body = {"steps": 80, "cost_usd": 1.5, "wall_time": "3d"}
    assert alice.post(f"/v1/runs/{RUN}/limits", json=body).status_code == 202
    limits = services.last("RaiseRunLimits").request.limits
    assert (limits.steps, limits.cost.units, limits.cost.nanos) == (80, 1, 500_000_000)
    assert limits.wall_time.seconds == 3 * 86_400
    assert not limits.HasField("tokens")
    for wrong in ({"steps": 0}, {"wall_time": "soon"}, {"cost_usd": -1}, {"unknown": 1}):
        assert alice.post(f"/v1/runs/{RUN}/limits", json=wrong).status_code == 422


def test_what_cannot_be_steered_is_409_and_what_is_wrong_names_the_field(services: Any, alice: Any) -> None:
    def ended(call: Any) -> Any:
        raise RunEnded("run is SUCCEEDED already", metadata={"state": "SUCCEEDED"})

    services.on("SignalRun", ended)
    answer = alice.post(f"/v1/runs/{RUN}/signal", json={"name": "go"})
    assert (answer.status_code, answer.json()["code"]) == (409, "RUN_ENDED")

    def low(call: Any) -> Any:
        raise LimitNotRaised("too low", violations=[FieldViolation("limits.steps", "must be more than 40")])

    services.on("RaiseRunLimits", low)
    problem = alice.post(f"/v1/runs/{RUN}/limits", json={"steps": 1})
    assert (problem.status_code, problem.json()["code"]) == (422, "LIMIT_NOT_RAISED")
    assert problem.json()["violations"][0]["field"] == "limits.steps"


def test_a_bulk_cancel_hands_on_its_filter_and_tells_how_many(services: Any, alice: Any) -> None:
    services.on("CancelRuns", lambda call: pb.CancelRunsResponse(count=3, more=True))
    body = {"agent": "refund-desk", "states": ["QUEUED", "PAUSED"], "labels": {"batch": "7"}, "limit": 3}
    answer = alice.post("/v1/runs/cancel", json=body)
    assert (answer.status_code, answer.json()) == (202, {"count": 3, "more": True})
    asked = services.last("CancelRuns").request
    assert (asked.agent, list(asked.states), dict(asked.labels), asked.limit) == (
        "refund-desk",
        [pb.RUN_STATE_QUEUED, pb.RUN_STATE_PAUSED],
        {"batch": "7"},
        3,
    )
    assert alice.post("/v1/runs/cancel", json={"states": ["SUCCEEDED"]}).status_code == 422


def test_a_fork_acts_under_a_grant_of_whoever_forks(services: Any, alice: Any) -> None:
    services.on("GetRun", lambda call: pb.GetRunResponse(run=run()))
    fork = pb.Run(run_id=RUN, agent="refund-desk", forked_from=pb.ForkPoint(run_id=RUN, seq=5))
    services.on("ForkRun", lambda call: pb.ForkRunResponse(run=fork))
    answer = alice.post(f"/v1/runs/{RUN}/fork", json={"seq": 5, "input": None, "version": 4, "labels": {"a": "b"}})
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/runs/{RUN}")
    assert answer.json()["forked_from"] == {"run_id": RUN, "seq": 5}
    asked = services.last("ForkRun").request
    assert (asked.seq, asked.input_json, asked.version, bool(asked.run_grant)) == (5, "null", 4, True)
    alice.post(f"/v1/runs/{RUN}/fork", json={"seq": 5})
    assert services.last("ForkRun").request.input_json == ""
    assert alice.post(f"/v1/runs/{RUN}/fork", json={"seq": 0}).status_code == 422


def test_a_replay_tells_the_first_difference(services: Any, alice: Any) -> None:
    difference = pb.ReplayDifference(seq=4, step_id="a", journalled_json='{"kind": "x"}', message="another input")
    services.on("ReplayRun", lambda call: pb.ReplayRunResponse(same=False, events=9, difference=difference))
    answer = alice.post(f"/v1/runs/{RUN}/replay")
    assert answer.json() == {
        "same": False,
        "events": 9,
        "difference": {
            "seq": 4,
            "step_id": "a",
            "journalled": {"kind": "x"},
            "decided": None,
            "message": "another input",
        },
    }


def test_a_run_shows_its_tree_its_schedule_and_why_it_is_paused(services: Any, alice: Any) -> None:
    message = run(
        parent_run_id=RUN,
        parent_step="triage",
        root_run_id=RUN,
        depth=1,
        child_run_ids=[RUN],
        schedule="nightly",
        priority=3,
        pause=pb.Pause(code="LIMIT_STEPS", reason="the run may start 40 steps"),
    )
    services.on("GetRun", lambda call: pb.GetRunResponse(run=message))
    shown = alice.get(f"/v1/runs/{RUN}").json()
    assert (shown["parent_run_id"], shown["parent_step"], shown["depth"], shown["child_run_ids"]) == (
        RUN,
        "triage",
        1,
        [RUN],
    )
    assert (shown["schedule"], shown["priority"], shown["pause"]["code"]) == ("nightly", 3, "LIMIT_STEPS")
    services.on("ListRuns", lambda call: pb.ListRunsResponse())
    alice.get("/v1/runs", params={"parent": RUN})
    assert services.last("ListRuns").request.parent_run_id == RUN


def test_agents_the_tenant_and_everything_are_suspended(services: Any, alice: Any) -> None:
    suspended = agents_pb2.Suspension(
        scope=agents_pb2.SUSPENSION_SCOPE_AGENT, reason="it pays twice", suspended_by="alice"
    )
    agent = agents_pb2.Agent(agent="refund-desk", suspension=suspended)
    services.on("SuspendAgent", lambda call: agents_pb2.SuspendAgentResponse(agent=agent))
    services.on("ResumeAgent", lambda call: agents_pb2.ResumeAgentResponse(agent=agents_pb2.Agent(agent="refund-desk")))
    answer = alice.post("/v1/agents/refund-desk/suspend", json={"reason": "it pays twice"})
    assert (answer.status_code, answer.json()["suspension"]["scope"]) == (200, "AGENT")
    assert alice.post("/v1/agents/refund-desk/suspend", json={}).status_code == 422
    assert alice.post("/v1/agents/refund-desk/resume").json()["suspension"] is None
    wide = agents_pb2.Suspension(scope=agents_pb2.SUSPENSION_SCOPE_ALL, reason="drill")
    services.on("PutSuspension", lambda call: agents_pb2.PutSuspensionResponse(suspensions=[wide]))
    services.on("GetSuspension", lambda call: agents_pb2.GetSuspensionResponse())
    body = {"scope": "ALL", "suspended": True, "reason": "drill"}
    assert alice.put("/v1/suspension", json=body).json()["suspensions"][0]["scope"] == "ALL"
    assert services.last("PutSuspension").request.scope == agents_pb2.SUSPENSION_SCOPE_ALL
    assert alice.get("/v1/suspension").json() == {"suspensions": []}


def test_a_schedule_is_put_with_a_grant_of_its_owner(services: Any, alice: Any) -> None:
    def put(call: Any) -> Any:
        return schedules_pb2.PutScheduleResponse(schedule=call.request.schedule, created=True)

    services.on("PutSchedule", put)
    body = {"cron": "0 7 * * 1-5", "time_zone": "Europe/Berlin", "input": {"a": 1}, "catch_up": "90m"}
    answer = alice.put("/v1/agents/refund-desk/schedules/daily", json=body)
    assert answer.status_code == 201
    shown = answer.json()
    assert (shown["cron"], shown["overlap"], shown["catch_up"], shown["input"]) == (
        "0 7 * * 1-5",
        "skip",
        "90m",
        {"a": 1},
    )
    assert services.last("PutSchedule").request.schedule_grant
    for wrong in ({}, {"cron": "0 7 * * *", "overlap": "pile_up"}, {"cron": "0 7 * * *", "catch_up": "long"}):
        assert alice.put("/v1/agents/refund-desk/schedules/daily", json=wrong).status_code == 422
    services.on("ListSchedules", lambda call: schedules_pb2.ListSchedulesResponse(next_page_token="more"))
    assert alice.get("/v1/agents/refund-desk/schedules").json()["next_page_token"] == "more"
    services.on("DeleteSchedule", lambda call: schedules_pb2.DeleteScheduleResponse())
    assert alice.delete("/v1/agents/refund-desk/schedules/daily").status_code == 204


def test_approvals_show_their_votes_and_reminders(services: Any, caller: Callable[[str], Any]) -> None:
    message = pb.Approval(
        approval_id="apr_1",
        state=pb.APPROVAL_STATE_PENDING,
        quorum=2,
        votes=[pb.ApprovalVote(decider="bob", message="fine")],
        reminders=1,
        escalation=True,
        reason="the step failed",
    )
    services.on("GetApproval", lambda call: pb.GetApprovalResponse(approval=message))
    shown = caller("bob").get("/v1/approvals/apr_1").json()
    assert (shown["quorum"], shown["reminders"], shown["escalation"], shown["reason"]) == (
        2,
        1,
        True,
        "the step failed",
    )
    assert shown["votes"] == [{"decider": "bob", "time": None, "message": "fine"}]
