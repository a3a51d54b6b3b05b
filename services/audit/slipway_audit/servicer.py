"""`slipway.audit.v1` over gRPC."""

from collections.abc import AsyncIterator
from typing import Any

from slipway.audit.v1 import audit_pb2 as pb
from slipway.audit.v1.audit_pb2_grpc import AuditServiceServicer
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import InvalidArgument

from slipway_audit import convert
from slipway_audit.checkpoints import Checkpointer
from slipway_audit.proofs import Proofs
from slipway_audit.reading import AuditReader

_PART = 64 * 1024  # bytes


class AuditServicer(AuditServiceServicer):
    """Converts, calls, converts back."""

    def __init__(self, reader: AuditReader, proofs: Proofs, checkpointer: Checkpointer) -> None:
        self._reader = reader
        self._proofs = proofs
        self._checkpointer = checkpointer

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Any) -> pb.ListAuditEventsResponse:
        """See the proto."""
        caller = current_caller()
        query = convert.query(request, caller)
        return convert.page(await self._reader.list(caller, query), query, caller)

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Any) -> pb.GetCheckpointResponse:
        """See the proto. Signs what is not signed yet, so that the answer covers every leaf."""
        caller = current_caller()
        self._reader.authorize_heads(caller)
        head = await self._checkpointer.sign(caller.tenant)
        return pb.GetCheckpointResponse(
            note=head.note, tree_size=head.size, verifier_key=str(self._checkpointer.key_of(head).verifier)
        )

    async def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: Any
    ) -> pb.GetInclusionProofResponse:
        """See the proto."""
        caller = current_caller()
        self._reader.authorize_heads(caller)
        if request.event_id and request.index:
            raise InvalidArgument("name an event or an index, not both", field="index")
        proof = await self._proofs.inclusion(caller.tenant, request.event_id, request.index, request.tree_size)
        return convert.inclusion(proof)

    async def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: Any
    ) -> pb.GetConsistencyProofResponse:
        """See the proto."""
        caller = current_caller()
        self._reader.authorize_heads(caller)
        proof = await self._proofs.consistency(caller.tenant, request.first_size, request.second_size)
        return convert.consistency(proof)

    async def ExportRunEvidence(
        self, request: pb.ExportRunEvidenceRequest, context: Any
    ) -> AsyncIterator[pb.ExportRunEvidenceResponse]:
        """See the proto."""
        evidence = await self._reader.evidence(current_caller(), request.run_id)
        for start in range(0, len(evidence.data), _PART):
            yield pb.ExportRunEvidenceResponse(
                data=evidence.data[start : start + _PART], complete=evidence.complete and start == 0
            )
