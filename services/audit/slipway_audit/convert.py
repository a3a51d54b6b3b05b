"""Between the wire and the domain."""

from slipway.audit.v1 import audit_pb2 as pb
from slipway_chassis import paging
from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument

from slipway_audit.proofs import Consistency, Inclusion
from slipway_audit.reading import Query
from slipway_audit.store import StoredLeaf

_LIST = "ListAuditEvents"
_DEFAULT_PAGE, _LARGEST_PAGE = 100, 500
_LONGEST_FILTER = 1024


def query(request: pb.ListAuditEventsRequest, caller: Caller) -> Query:
    """What a request asks for. Raises InvalidArgument."""
    for field in ("run_id", "type"):
        text: str = getattr(request, field)
        if len(text) > _LONGEST_FILTER or "\x00" in text:
            raise InvalidArgument(f"must be at most {_LONGEST_FILTER} characters without NUL", field=field)
    place = paging.decode_token(caller.tenant, _LIST, request.page_token, (int, str, str))
    if place is not None and place[1:] != (request.run_id, request.type):
        raise InvalidArgument("page_token belongs to another filter", field="page_token")
    return Query(
        run_id=request.run_id,
        type=request.type,
        after=int(place[0]) if place is not None else -1,
        limit=paging.page_size(request.page_size, _DEFAULT_PAGE, _LARGEST_PAGE),
    )


def page(leaves: list[StoredLeaf], asked: Query, caller: Caller) -> pb.ListAuditEventsResponse:
    """A page; a full one may have a successor."""
    token = ""
    if len(leaves) == asked.limit:
        token = paging.encode_token(caller.tenant, _LIST, leaves[-1].index, asked.run_id, asked.type)
    return pb.ListAuditEventsResponse(events=[_event(leaf) for leaf in leaves], next_page_token=token)


def _event(leaf: StoredLeaf) -> pb.AuditEvent:
    message = pb.AuditEvent(
        index=leaf.index,
        event_id=leaf.event_id,
        type=leaf.type,
        event_json=leaf.event or "",
        commitment=leaf.commitment.hex(),
        salt=leaf.salt.hex() if leaf.salt is not None else "",
    )
    if leaf.time is not None:
        message.time.FromDatetime(leaf.time)
    return message


def inclusion(proof: Inclusion) -> pb.GetInclusionProofResponse:
    """An inclusion proof."""
    return pb.GetInclusionProofResponse(
        index=proof.index,
        tree_size=proof.tree_size,
        leaf_hash=proof.leaf_hash,
        hashes=proof.hashes,
        root_hash=proof.root,
    )


def consistency(proof: Consistency) -> pb.GetConsistencyProofResponse:
    """A consistency proof."""
    return pb.GetConsistencyProofResponse(
        first_size=proof.first_size,
        second_size=proof.second_size,
        hashes=proof.hashes,
        first_root_hash=proof.first_root,
        second_root_hash=proof.second_root,
    )
