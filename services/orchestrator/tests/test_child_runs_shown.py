"""Child runs: what they show of their tree, and in whose name they act."""

import json

import pytest
from orchestrator_testing.definitions import workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2 as pb

CHILD = workflow(
    "    - {id: a, tool: {name: python, arguments: {code: '${input.message}'}}}",
    "{refund: '${steps.a.output.refund}'}",
    name="triage",
)
PARENT = workflow(
    "    - {id: ask, agent: {name: triage, input: {message: '${input.message}'}}}",
    "{got: '${steps.ask.output.refund}'}",
)


@pytest.fixture
async def tree(stack: Stack) -> Stack:
    """Parent and child agent in production, and a worker."""
    await stack.worker()
    await stack.promote(CHILD, name="triage")
    await stack.promote(PARENT)
    return stack


async def test_a_child_shows_its_place_in_the_tree_and_acts_under_the_grant_of_its_root(
    tree: Stack, world: World
) -> None:
    run_id = await tree.begin({"message": "x"})
    run = await tree.finish(run_id)
    assert json.loads(run.output_json) == {"got": 120}
    (child_id,) = run.child_run_ids
    child = await tree.get(child_id)
    assert (child.parent_run_id, child.parent_step, child.root_run_id, child.depth) == (run_id, "ask", run_id, 1)
    assert (child.agent, child.caller, child.state) == ("triage", "alice", pb.RUN_STATE_SUCCEEDED)
    listed = await tree.call(tree.runs.ListRuns, pb.ListRunsRequest(parent_run_id=run_id))
    assert [one.run_id for one in listed.runs] == [child_id]
    (caller,) = world.callers
    assert (caller.subject, caller.act, caller.run_id) == ("alice", "triage@1", child_id)


async def test_a_suspended_child_agent_fails_the_step_that_calls_it(tree: Stack) -> None:
    await tree.call(tree.agents.SuspendAgent, agents_pb2.SuspendAgentRequest(agent="triage", reason="broken"))
    run = await tree.finish(await tree.begin({"message": "x"}))
    assert (run.state, run.error.code, run.error.step) == (pb.RUN_STATE_FAILED, "AGENT_SUSPENDED", "ask")
