"""The audit log and the evidence taken from it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import Query
from slipway.audit.v1 import audit_pb2 as pb
from slipway_chassis.errors import InvalidArgument, NotFound

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.attachments import content_disposition
from slipway_gateway.http.calls import TRANSFER_SECONDS, first_of
from slipway_gateway.http.resources.audit import (
    AuditEventPage,
    Checkpoint,
    ConsistencyProof,
    InclusionProof,
    audit_event,
)
from slipway_gateway.http.route import CallsDep
from slipway_gateway.http.routes.runs import RunId
from slipway_gateway.http.sse import ClosingStream

router = api_router("audit")

TreeSize = Annotated[int, Query(ge=0, le=2**62, description="0: the newest checkpoint's.")]


@router.get(
    "/runs/{run_id}/evidence",
    response_class=ClosingStream,
    responses={
        200: {
            "description": "The evidence bundle (docs/evidence.md). `x-slipway-evidence-complete` is `true` when it "
            "covers the whole run.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
    },
    summary="Export a run's evidence",
)
async def export_run_evidence(run_id: RunId, calls: CallsDep) -> ClosingStream:
    """Verify it offline with `slipway audit verify`."""
    stream = calls.stream(
        calls.peers.audit.ExportRunEvidence, pb.ExportRunEvidenceRequest(run_id=run_id), timeout=TRANSFER_SECONDS
    )
    first: pb.ExportRunEvidenceResponse | None = await first_of(stream)
    if first is None:
        raise NotFound(f"there is no evidence of {run_id}")

    async def content() -> AsyncGenerator[bytes]:
        async with aclosing(stream):
            yield first.data
            async for message in stream:
                yield message.data

    return ClosingStream(
        content(),
        media_type="application/json",
        headers={
            "content-disposition": content_disposition(f"{run_id}.evidence.json"),
            "x-slipway-evidence-complete": "true" if first.complete else "false",
        },
    )


@router.get("/audit/events", summary="Read the audit log")
async def list_audit_events(
    calls: CallsDep,
    run_id: Annotated[str, Query(max_length=64, description="Only this run.")] = "",
    type: Annotated[str, Query(max_length=100, description="Only this type.")] = "",  # noqa: A002 - the API's name
    page_size: PageSizeQuery = 0,
    page_token: PageTokenQuery = "",
) -> AuditEventPage:
    """The tenant's log, in order."""
    answer: pb.ListAuditEventsResponse = await calls.invoke(
        calls.peers.audit.ListAuditEvents,
        pb.ListAuditEventsRequest(run_id=run_id, type=type, page_size=page_size, page_token=page_token),
    )
    return AuditEventPage(
        events=[audit_event(item) for item in answer.events], next_page_token=answer.next_page_token or None
    )


@router.get("/audit/checkpoint", summary="Get the newest checkpoint")
async def get_checkpoint(calls: CallsDep) -> Checkpoint:
    """The newest signed head of the tenant's log: keep it elsewhere, for it is what history is checked against."""
    answer: pb.GetCheckpointResponse = await calls.invoke(calls.peers.audit.GetCheckpoint, pb.GetCheckpointRequest())
    return Checkpoint(note=answer.note, tree_size=answer.tree_size, verifier_key=answer.verifier_key)


@router.get("/audit/inclusion", summary="Prove that an event is in the log")
async def get_inclusion_proof(
    calls: CallsDep,
    event_id: Annotated[str, Query(max_length=64)] = "",
    index: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    tree_size: TreeSize = 0,
) -> InclusionProof:
    """Of an event, or of a position."""
    if bool(event_id) == (index is not None):
        raise InvalidArgument("name an event or an index", field="event_id")
    answer: pb.GetInclusionProofResponse = await calls.invoke(
        calls.peers.audit.GetInclusionProof,
        pb.GetInclusionProofRequest(event_id=event_id, index=index or 0, tree_size=tree_size),
    )
    return InclusionProof(
        index=answer.index,
        tree_size=answer.tree_size,
        leaf_hash=answer.leaf_hash.hex(),
        hashes=[item.hex() for item in answer.hashes],
        root_hash=answer.root_hash.hex(),
    )


@router.get("/audit/consistency", summary="Prove that the log was only added to")
async def get_consistency_proof(
    calls: CallsDep, first_size: Annotated[int, Query(ge=0, le=2**62)], second_size: TreeSize = 0
) -> ConsistencyProof:
    """Between two tree sizes."""
    answer: pb.GetConsistencyProofResponse = await calls.invoke(
        calls.peers.audit.GetConsistencyProof,
        pb.GetConsistencyProofRequest(first_size=first_size, second_size=second_size),
    )
    return ConsistencyProof(
        first_size=answer.first_size,
        second_size=answer.second_size,
        hashes=[item.hex() for item in answer.hashes],
        first_root_hash=answer.first_root_hash.hex(),
        second_root_hash=answer.second_root_hash.hex(),
    )
