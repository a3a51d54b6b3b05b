"""What people do to runs that exist: each verb's effect, who may, and every wrong use of it."""

import asyncio
import json
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money
from orchestrator_testing.definitions import workflow
from orchestrator_testing.stack import Stack
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import SlipwayError

SET = workflow("    - {id: a, set: '${input.message}'}", "{a: '${steps.a.output}'}")


async def _reason(call: Any) -> str:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason


def _verbs(stack: Stack, run_id: str) -> list[tuple[Any, Any]]:
    runs = stack.runs
    return [
        (runs.CancelRun, pb.CancelRunRequest(run_id=run_id)),
        (runs.PauseRun, pb.PauseRunRequest(run_id=run_id)),
        (runs.ResumeRun, pb.ResumeRunRequest(run_id=run_id)),
        (runs.SignalRun, pb.SignalRunRequest(run_id=run_id, name="go")),
        (runs.RaiseRunLimits, pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(steps=1000))),
        (runs.ForkRun, pb.ForkRunRequest(run_id=run_id, seq=1, run_grant="alice/acme/refund-desk")),
    ]


async def test_what_is_unknown_or_another_tenants_is_not_found(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})
    for method, request in _verbs(stack, "run_nonsense"):
        assert await _reason(stack.call(method, request)) == "RUN_NOT_FOUND"
    for method, request in _verbs(stack, run_id):
        assert await _reason(stack.call(method, request, "gina")) == "RUN_NOT_FOUND"
        assert await _reason(stack.call(method, request, "erin")) == "POLICY_DENIED"


async def test_nothing_can_be_done_to_a_run_that_has_ended(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})
    await stack.finish(run_id)
    for method, request in _verbs(stack, run_id)[:-1]:
        assert await _reason(stack.call(method, request)) == "RUN_ENDED"


async def test_a_signal_has_a_name_and_a_bounded_payload(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})

    async def signal(**fields: Any) -> str:
        with pytest.raises(SlipwayError) as caught:
            await stack.call(stack.runs.SignalRun, pb.SignalRunRequest(run_id=run_id, **fields))
        return caught.value.violations[0].field

    assert await signal(name="") == "name"
    assert await signal(name="no spaces") == "name"
    assert await signal(name="go", payload_json="{") == "payload"
    assert await signal(name="go", payload_json=json.dumps("x" * 65_536)) == "payload"


async def test_limits_can_only_be_raised(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})

    async def fields(**limits: Any) -> list[str]:
        request = pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(**limits))
        with pytest.raises(SlipwayError) as caught:
            await stack.call(stack.runs.RaiseRunLimits, request)
        assert caught.value.reason == "LIMIT_NOT_RAISED"
        return [violation.field for violation in caught.value.violations]

    assert await fields() == ["limits"]
    assert await fields(steps=40) == ["limits.steps"]
    assert await fields(tokens=1, cost=Money(currency_code="USD", nanos=400_000_000), repeats=9) == [
        "limits.tokens",
        "limits.cost_usd",
    ]
    assert await fields(wall_time=Duration(seconds=5)) == ["limits.wall_time"]
    assert await fields(steps=10**9) == ["limits.steps"]
    assert await _reason(
        stack.call(
            stack.runs.RaiseRunLimits, pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(steps=50)), "bob"
        )
    ) == ("POLICY_DENIED")


async def test_a_run_that_is_not_paused_cannot_be_resumed(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})
    assert await _reason(stack.call(stack.runs.ResumeRun, pb.ResumeRunRequest(run_id=run_id))) == "RUN_NOT_PAUSED"


async def test_the_same_request_steers_once(stack: Stack) -> None:
    await stack.promote(SET)
    run_id = await stack.begin({"message": "x"})
    request = pb.SignalRunRequest(run_id=run_id, name="go", request_id="s1")
    await asyncio.gather(*(stack.call(stack.runs.SignalRun, request) for _ in range(4)))
    rows = await stack.sql("SELECT kind FROM run_inbox WHERE run_id = $1", run_id)
    assert [row["kind"] for row in rows] == ["signal"]
    other = pb.SignalRunRequest(run_id=run_id, name="stop", request_id="s1")
    assert await _reason(stack.call(stack.runs.SignalRun, other)) == "IDEMPOTENCY_KEY_REUSED"


async def test_bulk_cancel_needs_a_filter_and_reaches_what_matches_it(stack: Stack) -> None:
    await stack.promote(SET)
    ids = [await stack.begin({"message": "x"}, labels={"batch": str(n % 2)}) for n in range(6)]

    async def cancel(who: str = "alice", **filters: Any) -> Any:
        return await stack.call(stack.runs.CancelRuns, pb.CancelRunsRequest(**filters), who)

    assert await _reason(cancel()) == "INVALID_ARGUMENT"
    assert await _reason(cancel(agent="refund-desk", limit=20_000)) == "INVALID_ARGUMENT"
    assert await _reason(cancel(states=[pb.RUN_STATE_FAILED])) == "INVALID_ARGUMENT"
    assert (await cancel(agent="refund-desk", who="erin")).count == 0
    assert (await cancel(agent="refund-desk", who="gina")).count == 0
    assert (await cancel(agent="other")).count == 0
    first = await cancel(labels={"batch": "0"}, limit=2, request_id="b1")
    assert (first.count, first.more) == (2, True)
    assert await cancel(labels={"batch": "0"}, limit=2, request_id="b1") == first
    rest = await cancel(labels={"batch": "0"})
    assert (rest.count, rest.more) == (1, False)
    await stack.worker()
    runs = [await stack.finish(run_id) for run_id in ids]
    assert [run.state for run in runs] == [pb.RUN_STATE_CANCELLED, pb.RUN_STATE_SUCCEEDED] * 3


async def test_a_suspended_agent_starts_nothing(stack: Stack) -> None:
    await stack.promote(SET)
    agents = stack.agents
    suspend = agents_pb2.SuspendAgentRequest(agent="refund-desk", reason="it pays twice")
    assert await _reason(stack.call(agents.SuspendAgent, suspend, "bob")) == "POLICY_DENIED"
    assert await _reason(stack.call(agents.SuspendAgent, suspend, "gina")) == "AGENT_NOT_FOUND"
    empty = agents_pb2.SuspendAgentRequest(agent="refund-desk")
    assert await _reason(stack.call(agents.SuspendAgent, empty)) == "INVALID_ARGUMENT"
    agent = (await stack.call(agents.SuspendAgent, suspend)).agent
    assert (agent.suspension.reason, agent.suspension.suspended_by) == ("it pays twice", "alice")
    assert await _reason(stack.begin({"message": "x"})) == "AGENT_SUSPENDED"
    listed = (await stack.call(agents.ListAgents, agents_pb2.ListAgentsRequest())).agents[0]
    assert listed.suspension.reason == "it pays twice"
    resumed = (await stack.call(agents.ResumeAgent, agents_pb2.ResumeAgentRequest(agent="refund-desk"))).agent
    assert not resumed.HasField("suspension")
    await stack.begin({"message": "x"})


async def test_a_tenant_and_everything_are_suspended_by_the_platforms_administrators(stack: Stack) -> None:
    await stack.promote(SET)
    agents = stack.agents

    async def put(who: str, scope: Any, *, suspended: bool, reason: str = "drill") -> Any:
        request = agents_pb2.PutSuspensionRequest(scope=scope, suspended=suspended, reason=reason)
        return (await stack.call(agents.PutSuspension, request, who)).suspensions

    tenant, everything = agents_pb2.SUSPENSION_SCOPE_TENANT, agents_pb2.SUSPENSION_SCOPE_ALL
    assert await _reason(put("alice", tenant, suspended=True)) == "POLICY_DENIED"
    assert await _reason(put("dave", agents_pb2.SUSPENSION_SCOPE_AGENT, suspended=True)) == "INVALID_ARGUMENT"
    assert await _reason(put("dave", tenant, suspended=True, reason=" ")) == "INVALID_ARGUMENT"
    assert [one.scope for one in await put("dave", tenant, suspended=True)] == [tenant]
    assert await _reason(stack.begin({"message": "x"})) == "TENANT_SUSPENDED"
    assert [one.scope for one in await put("dave", everything, suspended=True)] == [tenant, everything]
    assert [one.scope for one in await put("dave", tenant, suspended=False)] == [everything]
    assert await _reason(stack.begin({"message": "x"})) == "EVERYTHING_SUSPENDED"
    seen = await stack.call(agents.GetSuspension, agents_pb2.GetSuspensionRequest())
    assert [one.suspended_by for one in seen.suspensions] == ["dave"]
    assert not await put("dave", everything, suspended=False)
    await stack.begin({"message": "x"})
