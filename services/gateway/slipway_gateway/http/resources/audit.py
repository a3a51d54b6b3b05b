"""The audit log."""

from datetime import datetime

from pydantic import Field, JsonValue
from slipway.audit.v1 import audit_pb2 as pb

from slipway_gateway.http.resources.fields import Page, Resource, json_of, time_of


class AuditEvent(Resource):
    """One leaf of the tenant's log. `event_json` is the text that the commitment is of; `event` the same, parsed."""

    index: int = Field(description="Position in the tenant's log, from 0.")
    event_id: str
    type: str
    time: datetime | None
    event: JsonValue = Field(description="Null when its subject was erased.")
    event_json: str | None
    commitment: str = Field(description="Hex SHA-256 of salt and `event_json`.")
    salt: str | None


class AuditEventPage(Page):
    """A page of the log, in order."""

    events: list[AuditEvent]


class Checkpoint(Resource):
    """A signed head of the log."""

    note: str = Field(description="Signed note (C2SP tlog-checkpoint).")
    tree_size: int
    verifier_key: str


class InclusionProof(Resource):
    """Proof that a leaf is in a tree (RFC 6962, 2.1.1); hashes in hex."""

    index: int
    tree_size: int
    leaf_hash: str
    hashes: list[str]
    root_hash: str


class ConsistencyProof(Resource):
    """Proof that a tree is a prefix of another (RFC 6962, 2.1.2); hashes in hex."""

    first_size: int
    second_size: int
    hashes: list[str]
    first_root_hash: str
    second_root_hash: str


def audit_event(message: pb.AuditEvent) -> AuditEvent:
    """Converts a leaf."""
    return AuditEvent(
        index=message.index,
        event_id=message.event_id,
        type=message.type,
        time=time_of(message, "time"),
        event=json_of(message.event_json),
        event_json=message.event_json or None,
        commitment=message.commitment,
        salt=message.salt or None,
    )
