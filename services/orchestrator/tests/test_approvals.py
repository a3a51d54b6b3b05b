"""Gates: who may decide, what a decision does, and that it is checked again when it takes effect."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from orchestrator_testing.definitions import REFUND_DESK, workflow
from orchestrator_testing.executors import World
from orchestrator_testing.stack import Stack
from slipway.agents.v1 import agents_pb2
from slipway.runs.v1 import runs_pb2
from slipway_chassis.errors import SlipwayError

SIGN_OFF = workflow(
    "    - {id: sign_off, approval: {show: 'pay ${input.message}?', approvers: [role:refund-approver]}}",
    "{decision: '${steps.sign_off.output.decision}', response: '${steps.sign_off.output.response}'}",
)


@pytest.fixture
async def desk(stack: Stack) -> Stack:
    """The refund desk in production, and a worker."""
    await stack.worker()
    await stack.promote(REFUND_DESK)
    return stack


async def _refused(call: Any) -> str:
    with pytest.raises(SlipwayError) as caught:
        await call
    return caught.value.reason


async def test_neither_the_proposer_nor_an_outsider_may_decide(desk: Stack) -> None:
    approval = await desk.pending(await desk.begin())
    assert await _refused(desk.decide(approval, "approve", "alice")) == "PROPOSER_IS_APPROVER"
    assert await _refused(desk.decide(approval, "approve", "dave")) == "NOT_AN_APPROVER"
    assert await _refused(desk.decide(approval, "approve", "gina")) == "APPROVAL_NOT_FOUND"


async def test_what_an_api_key_proposes_its_owner_may_not_approve(desk: Stack) -> None:
    approval = await desk.pending(await desk.begin(who="bobs-key"))
    assert approval.proposer == "bob"
    assert await _refused(desk.decide(approval, "approve", "bob")) == "PROPOSER_IS_APPROVER"
    assert (await desk.decide(approval, "approve", "frank")).decider == "frank"


async def test_a_version_that_an_api_key_submits_its_owner_may_not_review(stack: Stack) -> None:
    version = (await stack.put(REFUND_DESK, "bobs-key")).version
    assert version.author == "bob"
    named = {"agent": version.agent, "version": version.version}
    await stack.call(stack.agents.SubmitAgentVersion, agents_pb2.SubmitAgentVersionRequest(**named), "bobs-key")
    request = agents_pb2.ApproveAgentVersionRequest(**named)
    assert await _refused(stack.call(stack.agents.ApproveAgentVersion, request, "bob")) == "REVIEWER_IS_AUTHOR"


async def test_a_decision_on_what_was_not_shown_is_refused(desk: Stack) -> None:
    approval = await desk.pending(await desk.begin())
    wrong = desk.decide(approval, "approve", arguments_digest="sha256:00")
    assert await _refused(wrong) == "ARGUMENTS_CHANGED"


async def test_the_second_decision_comes_too_late(desk: Stack) -> None:
    approval = await desk.pending(await desk.begin())
    await desk.decide(approval, "approve")
    assert await _refused(desk.decide(approval, "reject", "frank", message="no")) == "APPROVAL_ALREADY_DECIDED"


async def test_a_repeated_decision_with_its_request_id_is_answered_again(desk: Stack) -> None:
    approval = await desk.pending(await desk.begin())
    first = await desk.decide(approval, "approve", request_id="r1")
    second = await desk.decide(approval, "approve", request_id="r1")
    assert (first.state, first.decider) == (second.state, second.decider) == (2, "bob")


async def test_a_rejection_needs_a_reason_and_fails_the_run_with_it(desk: Stack, world: World) -> None:
    run_id = await desk.begin()
    approval = await desk.pending(run_id)
    assert await _refused(desk.decide(approval, "reject")) == "DECISION_INVALID"
    await desk.decide(approval, "reject", message="too much")
    run = await desk.finish(run_id)
    assert (run.error.code, run.error.message, run.error.step) == ("APPROVAL_REJECTED", "too much", "pay")
    assert f"{run_id}/pay/1" not in world.effects


async def test_a_response_is_used_instead_of_the_tool(desk: Stack, world: World) -> None:
    run_id = await desk.begin()
    await desk.decide(await desk.pending(run_id), "respond", arguments_json='{"posted": "by hand"}')
    run = await desk.finish(run_id)
    assert json.loads(run.output_json)["paid"] == {"posted": "by hand"}
    assert f"{run_id}/pay/1" not in world.effects


async def test_edited_arguments_need_another_person_and_are_what_is_done(desk: Stack, world: World) -> None:
    run_id = await desk.begin()
    first = await desk.pending(run_id)
    assert await _refused(desk.decide(first, "edit", arguments_json='{"amount": "a lot"}')) == "DECISION_INVALID"
    await desk.decide(first, "edit", arguments_json='{"amount": 99.5}')
    seen = await desk.watch(run_id, after=first_waiting(await desk.journal(run_id)), until="run.waiting")
    assert seen[-1].kind == "run.waiting"
    run = await desk.get(run_id)
    request = runs_pb2.GetApprovalRequest(approval_id=run.pending_approval_ids[0])
    second = (await desk.call(desk.runs.GetApproval, request, "bob")).approval
    assert second.approval_id != first.approval_id
    assert (second.proposer, json.loads(second.arguments_json)) == ("bob", {"amount": 99.5})
    assert second.arguments_digest != first.arguments_digest
    assert await _refused(desk.decide(second, "approve", "bob")) == "PROPOSER_IS_APPROVER"
    await desk.decide(second, "approve", "frank")
    run = await desk.finish(run_id)
    assert json.loads(run.output_json)["paid"] == {"posted": 99.5}
    assert world.proofs[f"{run_id}/pay/1"].approver == "frank"


def first_waiting(events: list[Any]) -> int:
    return next(event.seq for event in events if event.kind == "run.waiting")


async def test_a_gate_by_itself_shows_its_text_and_gives_the_answer_on(stack: Stack) -> None:
    await stack.worker()
    await stack.promote(SIGN_OFF)
    run_id = await stack.begin({"message": "Ann"})
    approval = await stack.pending(run_id)
    assert (json.loads(approval.arguments_json), approval.tool) == ("pay Ann?", "")
    assert await _refused(stack.decide(approval, "edit", arguments_json='"x"')) == "DECISION_INVALID"
    await stack.decide(approval, "respond", arguments_json='{"half": true}')
    run = await stack.finish(run_id)
    assert json.loads(run.output_json) == {"decision": "respond", "response": {"half": True}}


@pytest.mark.parametrize(
    ("on_expiry", "on_error", "state"), [("reject", "fail", 9), ("reject", "continue", 8), ("fail", "continue", 9)]
)
async def test_nobody_decides_in_time(stack: Stack, on_expiry: str, on_error: str, state: int) -> None:
    await stack.worker(SLIPWAY_ORCHESTRATOR_SWEEP_SECONDS="60")
    gate = f"{{show: x, approvers: [role:refund-approver], expires: 300ms, on_expiry: {on_expiry}}}"
    await stack.promote(workflow(f"    - {{id: sign_off, on_error: {on_error}, approval: {gate}}}"))
    run_id = await stack.begin()
    run = await stack.finish(run_id)
    assert run.state == state
    assert [e.kind for e in await stack.journal(run_id) if e.kind == "approval.decided"] == ["approval.decided"]
    (approval,) = (
        await stack.call(stack.runs.ListApprovals, runs_pb2.ListApprovalsRequest(run_id=run_id), "bob")
    ).approvals
    assert approval.state == runs_pb2.APPROVAL_STATE_EXPIRED
    assert await _refused(stack.decide(approval, "approve")) == "APPROVAL_ALREADY_DECIDED"
    if state == 9:
        assert run.error.code == "APPROVAL_EXPIRED"


async def test_a_decision_is_authorised_again_when_it_takes_effect(
    stack: Stack, world: World, policy_dir: Path, tmp_path: Path
) -> None:
    """The worker has a policy that takes the right away which the api still gave."""
    shutil.copytree(policy_dir, tmp_path / "policies")
    (tmp_path / "policies" / "zz.cedar").write_text(
        '@id("nobody-decides")\nforbid (principal, action == Slipway::Action::"DecideApproval", resource);\n'
    )
    await stack.worker(SLIPWAY_ORCHESTRATOR_POLICY_DIR=str(tmp_path / "policies"))
    await stack.promote(REFUND_DESK)
    run_id = await stack.begin()
    approval = await stack.pending(run_id)
    await stack.decide(approval, "approve")
    after = first_waiting(await stack.journal(run_id))
    events = await stack.watch(run_id, after=after, until="run.waiting")
    decided, asked = (json.loads(e.data_json) for e in events if e.kind.startswith("approval."))
    assert decided["refused"] == "POLICY_DENIED"
    assert asked["approval_id"] != approval.approval_id
    assert asked["proposer"] == "alice"
    assert f"{run_id}/pay/1" not in world.effects


async def test_approvals_are_listed_to_those_who_may_read_them(desk: Stack) -> None:
    ids = [(await desk.pending(await desk.begin())).approval_id for _ in range(3)]
    pending = [runs_pb2.APPROVAL_STATE_PENDING]
    request = runs_pb2.ListApprovalsRequest(states=pending, page_size=2)
    first = await desk.call(desk.runs.ListApprovals, request, "bob")
    request = runs_pb2.ListApprovalsRequest(states=pending, page_size=2, page_token=first.next_page_token)
    second = await desk.call(desk.runs.ListApprovals, request, "bob")
    assert [a.approval_id for a in (*first.approvals, *second.approvals)] == ids[::-1]
    assert second.next_page_token == ""
    assert not (await desk.call(desk.runs.ListApprovals, runs_pb2.ListApprovalsRequest(), "erin")).approvals
    assert not (await desk.call(desk.runs.ListApprovals, runs_pb2.ListApprovalsRequest(), "gina")).approvals
