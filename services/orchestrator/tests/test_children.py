"""Child runs: what they give, what becomes of them, and what binds them."""

import asyncio
import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2

POST = "{id: post, tool: {name: ledger.post, arguments: {amount: '${input.n}'}}}"
NUMBER = "{n: {type: number}}"
HELPER = workflow(f"    - {POST}", "{r: '${steps.post.output.posted}'}", name="helper", properties=NUMBER)


@pytest.fixture
async def busy(stack: Stack) -> Stack:
    """A stack with a worker that sweeps rarely: what it must do sooner it knows by itself."""
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    await stack.promote(HELPER, name="helper")
    return stack


async def _children(stack: Stack, run_id: str) -> list[Any]:
    return await stack.sql("SELECT * FROM run WHERE parent_run_id = $1 ORDER BY run_id", run_id)


async def test_a_child_run_gives_its_output_and_acts_for_the_same_user(busy: Stack, world: World) -> None:
    steps = """
    - map: {over: [1, 2], as: n, step: {id: help, agent: {name: helper, input: {n: "${n}"}}}}
    - {id: wrong, on_error: continue, agent: {name: helper, input: {n: many}}}"""
    await busy.promote(workflow(steps, "{r: '${steps.map_1.output}', e: '${steps.wrong.error.code}'}"))
    run_id = await busy.begin()
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == {"r": [{"r": 1}, {"r": 2}], "e": "INPUT_INVALID"}
    children = await _children(busy, run_id)
    assert [child["parent_step"] for child in children] == ["help[0]", "help[1]"]
    assert {child["root_run_id"] for child in children} == {run_id}
    assert {child["depth"] for child in children} == {1}
    assert world.effects == {f"{child['run_id']}/post/1": 1 for child in children}
    assert {caller.subject for caller in world.callers} == {"alice"}
    events = await busy.journal(children[0]["run_id"])
    started = json.loads(events[0].data_json)
    assert (started["parent_run_id"], started["parent_step"], started["depth"]) == (run_id, "help[0]", 1)
    own = [json.loads(event.data_json) for event in await busy.journal(run_id) if event.step_id == "help[0]"]
    assert own[0]["child_run_id"] == children[0]["run_id"]
    assert "run.waiting" in [event.kind for event in await busy.journal(run_id)]


async def test_a_child_that_fails_fails_its_step_and_may_be_tried_again(busy: Stack, world: World) -> None:
    async def broken(name: str, arguments: Any, attempt: int) -> Any:
        if sum(world.effects.values()) < 2:
            raise ValueError("a fault")
        return {"posted": 7}

    world.tool = broken
    retry = "retry: {attempts: 2, backoff: 10ms, on: [INTERNAL]}"
    await busy.promote(
        workflow(
            f"    - {{id: help, {retry}, agent: {{name: helper, input: {{n: 1}}}}}}", "{r: '${steps.help.output.r}'}"
        )
    )
    run_id = await busy.begin()
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == {"r": 7}, run.error
    assert [child["state"] for child in await _children(busy, run_id)] == ["FAILED", "SUCCEEDED"]


async def test_cancelling_a_parent_cancels_its_children_and_their_tools(busy: Stack, world: World) -> None:
    async def slow(name: str, arguments: Any, attempt: int) -> Any:
        world.held.set()
        await world.hold.wait()

    world.tool = slow
    steps = """
    - parallel:
        - {id: help, agent: {name: helper, input: {n: 1}}}
        - {id: idle, agent: {name: waiter}}"""
    await busy.promote(workflow("    - {id: w, wait: {for: 2d}}", name="waiter", limits=LIMITS), name="waiter")
    await busy.promote(workflow(steps))
    run_id = await busy.begin()
    await asyncio.wait_for(world.held.wait(), 20)
    await busy.watch(run_id, until="run.waiting")
    await busy.call(busy.runs.CancelRun, runs_pb2.CancelRunRequest(run_id=run_id, reason="no more"))
    assert (await busy.finish(run_id)).state == 10
    for child in await _children(busy, run_id):
        ended = await busy.finish(child["run_id"])
        assert ended.state == 10
        (asked,) = [e for e in await busy.journal(child["run_id"]) if e.kind == "cancel.requested"]
        assert run_id in json.loads(asked.data_json)["reason"]


async def test_runs_do_not_call_one_another_without_end(busy: Stack) -> None:
    # Registered before it is a circle; then the callee changes.
    await busy.promote(workflow("    - {id: a, set: 1}", name="other"), name="other")
    await busy.promote(workflow("    - {id: down, agent: {name: other}}", name="deep"), name="deep")
    refused = workflow("    - {id: up, agent: {name: deep}}", name="other")
    with pytest.raises(Exception, match="a cycle: other calls deep calls other"):
        await busy.put(refused, name="other")
    chain = [workflow("    - {id: a, set: 1}", name="l0")]
    chain += [workflow(f"    - {{id: down, agent: {{name: l{n - 1}}}}}", name=f"l{n}") for n in range(1, 8)]
    for n, definition in enumerate(chain):
        await busy.promote(definition, name=f"l{n}")
    run = await busy.finish(await busy.begin(name="l7"))
    assert run.error.code == "TOO_DEEP", run.error
    assert len(await busy.sql("SELECT FROM run")) == 6


async def test_a_child_of_an_agent_that_may_not_run_is_an_error_of_its_step(busy: Stack) -> None:
    await busy.put(workflow("    - {id: a, set: 1}", name="draft"), name="draft")
    steps = "    - {id: help, on_error: continue, agent: {name: draft}}"
    await busy.promote(workflow(steps, "{e: '${steps.help.error.code}'}"))
    run_id = await busy.begin()
    assert json.loads((await busy.finish(run_id)).output_json) == {"e": "AGENT_NOT_IN_PRODUCTION"}


async def test_the_runs_of_a_tree_share_what_their_root_may_use(busy: Stack) -> None:
    """Two steps of the parent and two of each child: one more than the root lets all of them start."""
    limits = LIMITS.replace("steps: 40", "steps: 7")
    child = "    - {id: one, set: 1}\n    - {id: two, set: 2}"
    await busy.promote(workflow(child, name="lavish"), name="lavish")
    steps = """
    - {id: first, agent: {name: lavish}}
    - {id: second, agent: {name: lavish}}
    - {id: third, agent: {name: lavish}}"""
    await busy.promote(workflow(steps, limits=limits))
    run = await busy.finish(await busy.begin())
    assert (run.error.code, run.error.step) == ("LIMIT_STEPS", "third")
    (failed,) = [child for child in await _children(busy, run.run_id) if child["state"] == "FAILED"]
    assert "all runs of the tree" in json.loads(failed["error"])["message"]


async def test_raising_the_limits_of_the_root_lets_its_children_go_on(busy: Stack) -> None:
    careful = LIMITS.replace("on_limit: fail", "on_limit: pause")
    child = "    - {id: one, set: 1}\n    - {id: two, set: 2}"
    await busy.promote(workflow(child, name="careful", limits=careful), name="careful")
    await busy.promote(
        workflow("    - {id: a, agent: {name: careful}}", limits=LIMITS.replace("steps: 40", "steps: 2"))
    )
    run_id = await busy.begin()
    await busy.watch(run_id, until="run.waiting")
    (child_row,) = await _children(busy, run_id)
    events = await busy.watch(child_row["run_id"], until="run.paused")
    assert json.loads(events[-1].data_json)["code"] == "LIMIT_STEPS"
    await busy.watch(child_row["run_id"], after=events[-1].seq, until="run.waiting")
    raised = runs_pb2.RaiseRunLimitsRequest(run_id=run_id, limits=runs_pb2.RunLimits(steps=3))
    await busy.call(busy.runs.RaiseRunLimits, raised, "dave")
    assert (await busy.finish(run_id)).state == 8
    assert (await busy.get(child_row["run_id"])).state == 8
