"""What came from outside is marked, the mark follows the data, and policy asks for a person before it is acted on."""

import json
from typing import Any

import pytest
from orchestrator_testing.definitions import LIMITS, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2


def post(name: str, amount: str, more: str = "") -> str:
    return f"- {{id: {name}, tool: {{name: ledger.post, arguments: {{amount: {amount}}}}}{more}}}"


@pytest.fixture
async def busy(stack: Stack) -> Stack:
    await stack.worker()
    return stack


def marked(events: list[Any], kind: str) -> set[str]:
    return {event.step_id for event in events if event.kind == kind and json.loads(event.data_json).get("tainted")}


async def test_the_mark_follows_the_data_and_nothing_else(busy: Stack, world: World) -> None:
    child = workflow(f"""
    {post("own", "7")}
    {post("given", '"${input.n}"')}
""", '{n: "${input.n}"}', name="child", properties="{n: {type: integer}}")  # fmt: skip
    await busy.promote(child, name="child")
    steps = f"""
    - {{id: found, retrieve: {{collection: handbook, query: x}}}}
    {post("clean", '"${size(input.message)}"')}
    {post("direct", '"${size(steps.found.output.passages)}"')}
    - {{id: count, set: "${{size(steps.found.output.passages)}}"}}
    {post("derived", '"${steps.count.output}"')}
    {post("asked", "1", ', when: "steps.count.output > 0"')}
    - map:
        over: ["${{steps.count.output}}"]
        as: item
        steps:
          {post("each", '"${item}"')}
    - {{id: called, agent: {{name: child, input: {{n: "${{steps.count.output}}"}}}}}}
    {post("from_child", '"${steps.called.output.n}"')}
"""
    await busy.promote(
        workflow(steps, '{n: "${steps.count.output}"}', limits=LIMITS.replace("repeats: 3", "repeats: 99"))
    )
    run = await busy.finish(await busy.begin())
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run.error
    # All that a child run does that was begun with such an input counts as derived from it.
    assert world.tainted == {"direct", "derived", "each[0]", "given", "own", "from_child"}
    events = await busy.journal(run.run_id)
    assert {"found", "count", "direct", "derived", "map_1", "called"} <= marked(events, "step.completed")
    assert not {"clean", "asked"} & marked(events, "step.completed")
    assert json.loads(events[-1].data_json)["tainted"] is True


async def test_policy_asks_for_a_person_although_the_definition_does_not(busy: Stack, world: World) -> None:
    world.guarded = {"ledger.post"}
    steps = f"""
    {post("clean", "1")}
    - {{id: found, retrieve: {{collection: handbook, query: x}}}}
    {post("pay", '"${size(steps.found.output.passages)}"')}
"""
    more = '  escalation: {approvers: ["role:refund-approver"]}'
    await busy.promote(workflow(steps, '{paid: "${steps.pay.output}"}', more=more))
    run_id = await busy.begin()
    approval = await busy.pending(run_id)
    assert approval.step_id == "pay"
    asked = [event for event in await busy.journal(run_id) if event.kind == "approval.requested"]
    assert "policy asks for a person" in json.loads(asked[0].data_json)["reason"]
    await busy.decide(approval, "approve")
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == {"paid": {"posted": 1}}
    assert f"{run_id}/pay/1" in world.proofs
    assert world.tainted == {"pay"}


async def test_whatever_a_model_writes_after_it_heard_something_from_outside_is_marked(
    busy: Stack, world: World
) -> None:
    world.outside, world.guarded = {"python"}, {"ledger.post"}
    replies = iter(
        [[("ledger_post", '{"amount": 1}')], [("python", '{"code": "1"}')], [("ledger_post", '{"amount": 2}')], "Paid."]
    )
    world.reply = lambda _chat: next(replies)
    await busy.promote(f"""
apiVersion: slipway.dev/v1
kind: Agent
metadata: {{name: refund-desk}}
spec:
  type: loop
  input: {{type: object}}
  output: {{type: string}}
  limits: {LIMITS}
  instructions: Pay.
  model: big
  tools: [python, ledger.post]
  escalation: {{approvers: ["role:refund-approver"]}}
""")
    run_id = await busy.begin()
    approval = await busy.pending(run_id)
    assert json.loads(approval.arguments_json) == {"amount": 2}
    await busy.decide(approval, "reject", message="not on their word")
    run = await busy.finish(run_id)
    assert json.loads(run.output_json) == "Paid."
    assert "call_1_1" not in world.tainted


async def test_an_input_from_outside_marks_all_that_derives_from_it(busy: Stack, world: World) -> None:
    steps = f"""
    {post("given", '"${size(input.message)}"')}
"""
    await busy.promote(workflow(steps, '{n: "${size(input.message)}"}'))
    clean = await busy.finish(await busy.begin())
    assert (world.tainted, clean.output_tainted) == (set(), False)
    run = await busy.finish(await busy.begin(input_tainted=True))
    assert run.state == runs_pb2.RUN_STATE_SUCCEEDED, run.error
    assert (world.tainted, run.output_tainted) == ({"given"}, True)
    events = await busy.journal(run.run_id)
    assert json.loads(events[0].data_json)["tainted"] is True
