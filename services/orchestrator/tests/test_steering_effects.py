"""What steering does to runs at work: they pause, go on, take signals, pass raised limits, and stop."""

import asyncio
import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import SlipwayError

PYTHON = "tool: {name: python, arguments: {code: x}}"
GATE = "approval: {show: x, approvers: [role:refund-approver]}"
SIGNAL = workflow(
    "    - {id: w, wait: {signal: paid}}", "{got: '${steps.w.output.payload}', by: '${steps.w.output.by}'}"
)
TWO = workflow(f"    - {{id: a, {PYTHON}}}\n    - {{id: b, set: done}}", "{b: '${steps.b.output}'}")


@pytest.fixture
async def busy(stack: Stack) -> Stack:
    """A stack with a worker that sweeps rarely: what it must do sooner it knows by itself."""
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    return stack


def _hold(world: World) -> None:
    """The tool waits until the test lets it go."""

    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        world.held.set()
        await world.hold.wait()
        return {"refund": 1}

    world.tool = slow


async def _pause(stack: Stack, run_id: str, reason: str = "") -> None:
    await stack.call(stack.runs.PauseRun, pb.PauseRunRequest(run_id=run_id, reason=reason))


async def _resume(stack: Stack, run_id: str) -> None:
    await stack.call(stack.runs.ResumeRun, pb.ResumeRunRequest(run_id=run_id))


async def _signal(stack: Stack, run_id: str, payload: Any, name: str = "paid") -> None:
    request = pb.SignalRunRequest(run_id=run_id, name=name, payload_json=json.dumps(payload))
    await stack.call(stack.runs.SignalRun, request)


async def _paused(stack: Stack, run_id: str) -> Any:
    """The run, once it is parked as paused."""
    async with asyncio.timeout(30):
        while True:
            run = await stack.get(run_id)
            if run.state == pb.RUN_STATE_PAUSED:
                return run
            await asyncio.sleep(0.05)


async def test_a_paused_run_finishes_what_it_does_and_goes_on_when_it_is_resumed(busy: Stack, world: World) -> None:
    _hold(world)
    await busy.promote(TWO)
    run_id = await busy.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    await _pause(busy, run_id, "look at it")
    await busy.watch(run_id, until="run.paused")
    world.hold.set()
    run = await _paused(busy, run_id)
    assert (run.pause.code, run.pause.reason) == ("REQUESTED", "look at it")
    kinds = [event.kind for event in await busy.journal(run_id)]
    assert kinds == ["run.started", "step.started", "run.paused", "step.completed", "run.waiting"]
    with pytest.raises(SlipwayError) as caught:
        await _pause(busy, run_id)
    assert caught.value.reason == "RUN_ALREADY_PAUSED"
    await _resume(busy, run_id)
    ended = await busy.finish(run_id)
    assert ended.state == pb.RUN_STATE_SUCCEEDED
    assert not ended.HasField("pause")
    assert world.effects[f"{run_id}/a/1"] == 1


async def test_a_run_is_resumed_before_its_worker_has_even_paused_it(stack: Stack) -> None:
    await stack.promote(workflow("    - {id: a, set: 1}"))
    run_id = await stack.begin()
    await _pause(stack, run_id)
    await _resume(stack, run_id)
    await stack.worker()
    assert (await stack.finish(run_id)).state == pb.RUN_STATE_SUCCEEDED


async def test_a_signal_is_taken_by_the_step_that_waits_for_it_or_kept_until_one_does(busy: Stack) -> None:
    await busy.promote(SIGNAL)
    waiting = await busy.begin()
    await busy.watch(waiting, until="run.waiting")
    assert (await busy.get(waiting)).state == pb.RUN_STATE_WAITING_SIGNAL
    await _signal(busy, waiting, "nobody waits for it", name="other")
    await _signal(busy, waiting, {"amount": 3})
    run = await busy.finish(waiting)
    assert json.loads(run.output_json) == {"got": {"amount": 3}, "by": "alice"}

    await busy.promote(
        workflow(
            f"    - {{id: g, {GATE}}}\n    - {{id: w, wait: {{signal: paid}}}}", "{got: '${steps.w.output.payload}'}"
        )
    )
    early = await busy.begin()
    approval = await busy.pending(early)
    await _signal(busy, early, "first")
    await _signal(busy, early, "second")
    await busy.decide(approval, "approve")
    assert json.loads((await busy.finish(early)).output_json) == {"got": "first"}


async def test_a_run_that_paused_at_a_limit_goes_on_when_the_limit_is_raised(busy: Stack) -> None:
    limits = LIMITS.replace("steps: 40", "steps: 2").replace("on_limit: fail", "on_limit: pause")
    steps = "\n".join(f"    - {{id: s{n}, set: {n}}}" for n in range(3))
    await busy.promote(workflow(steps, limits=limits))
    run_id = await busy.begin()
    run = await _paused(busy, run_id)
    assert run.pause.code == "LIMIT_STEPS"
    raise_to = pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(steps=3))
    await busy.call(busy.runs.RaiseRunLimits, raise_to)
    assert (await busy.finish(run_id)).state == pb.RUN_STATE_SUCCEEDED
    raised = next(event for event in await busy.journal(run_id) if event.kind == "limits.raised")
    assert json.loads(raised.data_json)["limits"]["steps"] == 3
    assert json.loads(raised.data_json)["records"]


async def test_a_limit_that_was_raised_once_can_only_be_raised_further(busy: Stack) -> None:
    await busy.promote(SIGNAL)
    run_id = await busy.begin()
    await busy.watch(run_id, until="run.waiting")

    async def raise_to(steps: int) -> None:
        request = pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(steps=steps))
        await busy.call(busy.runs.RaiseRunLimits, request)

    await raise_to(80)
    await busy.watch(run_id, until="limits.raised")
    with pytest.raises(SlipwayError) as caught:
        await raise_to(60)
    assert caught.value.reason == "LIMIT_NOT_RAISED"
    await raise_to(81)


async def test_a_suspended_agents_runs_stop_what_they_do_and_go_on_when_it_is_resumed(
    busy: Stack, world: World
) -> None:
    _hold(world)
    await busy.promote(TWO)
    await busy.promote(SIGNAL.replace("refund-desk", "waiter"), name="waiter")
    run_id, parked = await busy.begin(), await busy.begin(name="waiter")
    await asyncio.wait_for(world.held.wait(), 20)
    await busy.watch(parked, until="run.waiting")
    for agent in ("refund-desk", "waiter"):
        await busy.call(busy.agents.SuspendAgent, agents_pb2.SuspendAgentRequest(agent=agent, reason="it pays twice"))
    run = await _paused(busy, run_id)
    assert run.pause.code == "SUSPENDED"
    with pytest.raises(SlipwayError) as caught:
        await _resume(busy, run_id)
    assert caught.value.reason == "AGENT_SUSPENDED"
    # What waits is looked at when something wakes it.
    await _signal(busy, parked, "now")
    assert (await _paused(busy, parked)).pause.code == "SUSPENDED"
    world.hold.set()
    for agent in ("refund-desk", "waiter"):
        await busy.call(busy.agents.ResumeAgent, agents_pb2.ResumeAgentRequest(agent=agent))
    assert (await busy.finish(run_id)).state == pb.RUN_STATE_SUCCEEDED
    assert json.loads((await busy.finish(parked)).output_json)["got"] == "now"
    # Asked for again, under the key that it had.
    assert {key for key in world.calls if key.startswith(run_id)} == {f"{run_id}/a/1"}


async def test_who_paused_a_run_decides_what_lets_it_go_on(busy: Stack) -> None:
    await busy.promote(SIGNAL)
    asked, limited = await busy.begin(), await busy.begin()
    await busy.watch(asked, until="run.waiting")
    await _pause(busy, asked, "mine")
    assert (await _paused(busy, asked)).pause.reason == "mine"
    suspend = agents_pb2.SuspendAgentRequest(agent="refund-desk", reason="it pays twice")
    resume = agents_pb2.ResumeAgentRequest(agent="refund-desk")
    await busy.call(busy.agents.SuspendAgent, suspend)
    # Woken by whatever, a suspended agent's run does not go on.
    await _signal(busy, limited, "x")
    assert (await _paused(busy, limited)).pause.code == "SUSPENDED"
    await _signal(busy, asked, "kept")
    await busy.watch(asked, until="signal.received")
    assert (await _paused(busy, asked)).pause.code == "REQUESTED"
    await busy.call(busy.agents.ResumeAgent, resume)
    assert (await busy.finish(limited)).state == pb.RUN_STATE_SUCCEEDED
    assert (await _paused(busy, asked)).pause.reason == "mine"
    await _resume(busy, asked)
    assert json.loads((await busy.finish(asked)).output_json)["got"] == "kept"


async def test_a_limit_that_is_raised_lets_no_suspended_run_go_on(busy: Stack) -> None:
    limits = LIMITS.replace("steps: 40", "steps: 1").replace("on_limit: fail", "on_limit: pause")
    await busy.promote(workflow("    - {id: a, set: 1}\n    - {id: b, set: 2}", limits=limits))
    run_id = await busy.begin()
    await _paused(busy, run_id)
    await busy.call(busy.agents.SuspendAgent, agents_pb2.SuspendAgentRequest(agent="refund-desk", reason="drill"))
    await busy.call(busy.runs.RaiseRunLimits, pb.RaiseRunLimitsRequest(run_id=run_id, limits=pb.RunLimits(steps=9)))
    raised = (await busy.watch(run_id, until="limits.raised"))[-1].seq
    await busy.watch(run_id, after=raised, until="run.waiting")
    assert (await busy.get(run_id)).pause.code == "SUSPENDED"
    await busy.call(busy.agents.ResumeAgent, agents_pb2.ResumeAgentRequest(agent="refund-desk"))
    assert (await busy.finish(run_id)).state == pb.RUN_STATE_SUCCEEDED


async def test_a_forced_cancel_breaks_off_what_does_not_stop(busy: Stack, world: World) -> None:
    _hold(world)
    await busy.promote(TWO)
    run_id = await busy.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    await busy.call(busy.runs.CancelRun, pb.CancelRunRequest(run_id=run_id, reason="now", force=True))
    assert (await busy.finish(run_id)).state == pb.RUN_STATE_CANCELLED
    world.hold.set()
    asked = next(event for event in await busy.journal(run_id) if event.kind == "cancel.requested")
    assert json.loads(asked.data_json)["force"] is True


async def test_a_delayed_run_is_signalled_without_being_started_early(busy: Stack) -> None:
    await busy.promote(SIGNAL)
    later = Timestamp()
    later.GetCurrentTime()
    later.seconds += 86_400
    run_id = await busy.begin(not_before=later)
    await _signal(busy, run_id, "early")
    now = await busy.begin()
    await _signal(busy, now, "x")
    await busy.finish(now)
    assert [event.kind for event in await busy.journal(run_id)] == ["run.started"]
    await busy.call(busy.runs.CancelRun, pb.CancelRunRequest(run_id=run_id))
    assert (await busy.finish(run_id)).state == pb.RUN_STATE_CANCELLED
