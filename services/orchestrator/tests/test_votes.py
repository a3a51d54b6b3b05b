"""Gates that take several persons, remind them, and are asked again: each vote is looked at when it takes effect."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from orchestrator_testing.definitions import workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import SlipwayError

TWO = workflow(
    "    - {id: pay, tool: {name: ledger.post, arguments: {amount: 5}},"
    " approval: {approvers: [role:refund-approver], quorum: 2, expires: 7d}}",
    "{paid: '${steps.pay.output.posted}'}",
)


@pytest.fixture
async def desk(stack: Stack) -> Stack:
    """A gate for two in production, and a worker."""
    await stack.worker()
    await stack.promote(TWO)
    return stack


async def _refused(call: Any) -> str:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason


async def _shown(stack: Stack, approval_id: str) -> Any:
    request = pb.GetApprovalRequest(approval_id=approval_id)
    return (await stack.call(stack.runs.GetApproval, request, "bob")).approval


async def test_a_gate_for_two_takes_two_persons(desk: Stack, world: World) -> None:
    run_id = await desk.begin()
    approval = await desk.pending(run_id)
    assert approval.quorum == 2
    first = await desk.decide(approval, "approve", "bob", message="fine with me")
    assert (first.state, [vote.decider for vote in first.votes]) == (pb.APPROVAL_STATE_PENDING, ["bob"])
    assert await _refused(desk.decide(approval, "approve", "bob")) == "ALREADY_VOTED"
    voted = (await desk.watch(run_id, until="approval.voted"))[-1]
    data = json.loads(voted.data_json)
    assert (data["votes"], data["quorum"], data["decider"], bool(data["records"])) == (1, 2, "bob", True)
    assert not world.effects
    second = await desk.decide(approval, "approve", "frank")
    assert (second.state, second.decider) == (pb.APPROVAL_STATE_APPROVED, "frank")
    assert [vote.decider for vote in second.votes] == ["bob", "frank"]
    assert json.loads((await desk.finish(run_id)).output_json) == {"paid": 5}


async def test_one_rejection_or_edit_is_enough(desk: Stack) -> None:
    run_id = await desk.begin()
    approval = await desk.pending(run_id)
    await desk.decide(approval, "approve", "bob")
    await desk.decide(approval, "reject", "frank", message="no")
    run = await desk.finish(run_id)
    assert (run.state, run.error.code) == (pb.RUN_STATE_FAILED, "APPROVAL_REJECTED")

    run_id = await desk.begin()
    approval = await desk.pending(run_id)
    await desk.decide(approval, "approve", "frank")
    edited = await desk.decide(approval, "edit", "bob", arguments_json='{"amount": 3}')
    assert edited.state == pb.APPROVAL_STATE_EDITED
    first = next(event for event in await desk.journal(run_id) if event.kind == "approval.requested")
    asked = await desk.watch(run_id, after=first.seq, until="approval.requested")
    fresh = await _shown(desk, json.loads(asked[-1].data_json)["approval_id"])
    assert fresh.approval_id != approval.approval_id
    assert (fresh.proposer, fresh.quorum, list(fresh.votes)) == ("bob", 2, [])
    assert "edited by bob" in fresh.reason
    assert await _refused(desk.decide(fresh, "approve", "bob")) == "PROPOSER_IS_APPROVER"


async def test_of_two_decisions_at_once_one_wins(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(TWO.replace("quorum: 2", "quorum: 1"))
    for _ in range(5):
        run_id = await stack.begin()
        approval = await stack.pending(run_id)
        outcomes = await asyncio.gather(
            stack.decide(approval, "approve", "bob"),
            stack.decide(approval, "reject", "frank", message="no"),
            return_exceptions=True,
        )
        lost = [outcome for outcome in outcomes if isinstance(outcome, SlipwayError)]
        assert [error.reason for error in lost] == ["APPROVAL_ALREADY_DECIDED"]
        await stack.finish(run_id)


async def test_a_voter_who_may_not_decide_any_more_does_not_count(
    stack: Stack, policy_dir: Path, tmp_path: Path, world: World
) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(policy_dir, policies)
    await stack.promote(TWO)
    worker = await stack.worker(SLIPWAY_ORCHESTRATOR_POLICY_DIR=str(policies))
    run_id = await stack.begin()
    approval = await stack.pending(run_id)
    await stack.decide(approval, "approve", "bob")
    await stack.watch(run_id, until="approval.voted")
    await worker.stop()
    (policies / "90-bob.cedar").write_text(
        '@id("not-bob")\nforbid (principal, action == Slipway::Action::"DecideApproval", resource)\n'
        'when { principal.subject == "bob" };\n'
    )
    await stack.worker(SLIPWAY_ORCHESTRATOR_POLICY_DIR=str(policies))
    await stack.decide(approval, "approve", "frank")
    refused = (await stack.watch(run_id, until="approval.decided"))[-1]
    assert json.loads(refused.data_json)["refused"] == "POLICY_DENIED"
    assert not world.effects


async def test_who_has_not_decided_is_reminded(stack: Stack) -> None:
    await stack.worker()
    gate = "approval: {show: x, approvers: [role:refund-approver], remind: 300ms, expires: 1h}"
    await stack.promote(workflow(f"    - {{id: a, {gate}}}"))
    run_id = await stack.begin()
    approval = await stack.pending(run_id)
    assert approval.HasField("next_reminder_time")
    reminded = [
        event for event in await stack.watch(run_id, until="approval.reminded") if event.kind.endswith("reminded")
    ]
    assert json.loads(reminded[0].data_json)["count"] == 1
    assert (await _shown(stack, approval.approval_id)).reminders >= 1
    await stack.decide(approval, "approve")
    decided = await _shown(stack, approval.approval_id)
    assert not decided.HasField("next_reminder_time")
    await stack.finish(run_id)
