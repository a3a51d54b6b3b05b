"""Approvals: what waits for a person."""

from typing import Annotated

from fastapi import Path, Query
from slipway.runs.v1 import runs_pb2 as pb
from slipway_chassis.errors import InvalidArgument

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.resources.approvals import DECISIONS, Approval, ApprovalPage, DecideApproval, approval
from slipway_gateway.http.resources.fields import json_text
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("approvals")

ApprovalId = Annotated[str, Path(min_length=1, max_length=64)]
_STATES = ("pending", "approved", "edited", "rejected", "responded", "expired", "cancelled")


@router.get("/approvals", summary="List approvals")
async def list_approvals(
    calls: CallsDep,
    state: Annotated[list[str] | None, Query(description=f"One of {', '.join(_STATES)}; may be repeated.")] = None,
    run_id: Annotated[str, Query(max_length=64)] = "",
    page_size: PageSizeQuery = 0,
    page_token: PageTokenQuery = "",
) -> ApprovalPage:
    """Approvals that the caller may read, newest first."""
    answer: pb.ListApprovalsResponse = await calls.invoke(
        calls.peers.runs.ListApprovals,
        pb.ListApprovalsRequest(
            states=[_state(name) for name in state or ()], run_id=run_id, page_size=page_size, page_token=page_token
        ),
    )
    return ApprovalPage(
        approvals=[approval(item) for item in answer.approvals], next_page_token=answer.next_page_token or None
    )


def _state(name: str) -> pb.ApprovalState.ValueType:
    if name.lower() not in _STATES:
        raise InvalidArgument(f"one of {', '.join(_STATES)}", field="state")
    return pb.ApprovalState.Value(f"APPROVAL_STATE_{name.upper()}")


@router.get("/approvals/{approval_id}", summary="Get an approval")
async def get_approval(approval_id: ApprovalId, calls: CallsDep) -> Approval:
    """One approval, with the exact arguments."""
    answer: pb.GetApprovalResponse = await calls.invoke(
        calls.peers.runs.GetApproval, pb.GetApprovalRequest(approval_id=approval_id)
    )
    return approval(answer.approval)


@router.post("/approvals/{approval_id}/decide", summary="Decide an approval")
async def decide_approval(
    approval_id: ApprovalId, body: DecideApproval, calls: CallsDep, request_id: IdempotencyKey
) -> Approval:
    """A digest that is not the one shown is 409, as is a second decision; proposers cannot approve (403)."""
    has_arguments = "arguments" in body.model_fields_set
    if has_arguments != (body.decision in ("edit", "respond")):
        wanted = "are required" if not has_arguments else "are not used"
        raise InvalidArgument(f"arguments {wanted} with the decision {body.decision}", field="arguments")
    answer: pb.DecideApprovalResponse = await calls.invoke(
        calls.peers.runs.DecideApproval,
        pb.DecideApprovalRequest(
            approval_id=approval_id,
            decision=DECISIONS[body.decision],
            arguments_digest=body.arguments_digest,
            arguments_json=json_text(body.arguments) if has_arguments else "",
            message=body.message,
            request_id=request_id,
        ),
    )
    return approval(answer.approval)
