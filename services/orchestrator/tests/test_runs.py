"""Runs from start to end, over the gRPC services and real worker processes."""

import asyncio
import json
from typing import Any

from orchestrator_testing.definitions import LIMITS, REFUND_DESK
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway_chassis.bus import open_bus

SHORT = f"""
apiVersion: slipway.dev/v1
kind: Agent
metadata: {{name: short, labels: {{team: support}}}}
spec:
  type: workflow
  description: Ends at once.
  input: {{type: object, required: [message], properties: {{message: {{type: string}}}}}}
  output: {{type: object, required: [reply], properties: {{reply: {{type: string}}}}}}
  limits: {LIMITS}
  steps:
    - {{id: given, set: "${{input.message}}"}}
  result: {{reply: "${{steps.given.output}}"}}
"""


async def test_a_workflow_runs_through_all_kinds_of_steps_and_waits_for_approval(stack: Stack, world: World) -> None:
    await stack.worker()
    await stack.promote(REFUND_DESK)
    run_id = await stack.begin()
    approval = await stack.pending(run_id)
    assert json.loads(approval.arguments_json) == {"amount": 120}
    assert approval.tool == "ledger.post"
    assert approval.proposer == "alice"
    assert f"{run_id}/pay/1" not in world.effects
    await stack.decide(approval, "approve")
    run = await stack.finish(run_id)
    assert run.state == 8, run
    output: Any = json.loads(run.output_json)
    assert output == {"reply": world.answer, "paid": {"posted": 120}, "nothing": None}
    assert world.proofs[f"{run_id}/pay/1"].approver == "bob"
    assert set(world.effects.values()) == {1}
    events = await stack.journal(run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    answer = json.loads(next(e.data_json for e in events if e.kind == "step.completed" and e.step_id == "answer"))
    assert [c["document"] for c in answer["output"]["citations"]] == ["policy.md"]
    assert answer["records"][0]["event_id"] == f"aev_{run_id}/answer/1"
    assert run.usage.input_tokens == 10
    assert run.usage.cost.nanos == 1_000_000
    assert {caller.act for caller in world.callers} == {"refund-desk@1"}


async def test_others_hear_over_the_bus_that_a_run_ended(stack: Stack, valkey_url: str) -> None:
    await stack.worker()
    await stack.promote(SHORT, name="short")
    bus = await open_bus(valkey_url)
    async with bus.subscribe("run.ended") as heard:
        run_id = await stack.begin(name="short")
        async with asyncio.timeout(60):
            async for data in heard:
                if (said := json.loads(data))["run"] == run_id:
                    break
    await bus.close()
    assert said == {"tenant": "acme", "run": run_id}
    assert (await stack.get(run_id)).state == 8
