"""Runs from start to end, over the gRPC services and real worker processes."""

import json
from typing import Any

from orchestrator_testing.definitions import REFUND_DESK
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack


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
