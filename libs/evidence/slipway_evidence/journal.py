"""What a run's journal must show: an unbroken chain, every record it refers to, and decisions by somebody else."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from slipway_evidence.canonical import CanonicalError, Json, dump, parse_canonical
from slipway_evidence.event import GENESIS, Event, is_event_id, is_hex32

JOURNAL_TYPE = "run.event"
TERMINAL_KINDS = frozenset(("run.succeeded", "run.failed", "run.cancelled"))


class JournalError(ValueError):
    """The journal breaks a rule: a stable code, and where."""

    def __init__(self, code: str, message: str, position: str) -> None:
        super().__init__(message)
        self.code = code
        self.position = position


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """A row of a journal. An erased one has no body and no `prev`: its commitment alone is known.

    `apart` names the members of the body that are stored apart, each with its digest.
    """

    seq: int
    kind: str
    commitment: str
    position: str
    prev: str | None = None
    body: Mapping[str, Json] | None = None
    apart: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True)
class Reference:
    """A record that a journal event refers to."""

    event_id: str
    commitment: str
    position: str


def journal_event(event: Event, commitment: str, position: str) -> JournalEvent:
    """The journal row that an event with a seq holds. Raises JournalError with code `journal_format`."""
    kind, payload = event.data.get("kind"), event.data.get("payload")
    if event.type != JOURNAL_TYPE or not isinstance(kind, str) or not kind or not isinstance(payload, str):
        raise JournalError(
            "journal_format", f"an event with a seq has type {JOURNAL_TYPE} and says kind and payload", position
        )
    try:
        body = parse_canonical(payload.encode())
    except CanonicalError as error:
        raise JournalError("journal_format", f"the payload is not canonical JSON: {error}", position) from None
    if not isinstance(body, dict):
        raise JournalError("journal_format", "the payload is not a JSON object", position)
    records, apart = event.data.get("records", []), event.data.get("payloads", {})
    if body.get("records", []) != records:
        raise JournalError("journal_format", "the records are not those of the payload", position)
    if not isinstance(apart, dict):
        raise JournalError("journal_format", "payloads are not an object", position)
    return JournalEvent(cast("int", event.seq), kind, commitment, position, event.prev, body, apart)


def check_chain(journal: Sequence[JournalEvent]) -> None:
    """Check seq 1..n, the chain of `prev`, and that nothing follows the end. `journal` is sorted by seq."""
    before = GENESIS
    for expected, row in enumerate(journal, start=1):
        if row.seq < expected:
            raise JournalError("journal_duplicate", f"seq {row.seq} is there twice", row.position)
        if row.seq > expected:
            raise JournalError("journal_gap", f"seq {expected} is missing before seq {row.seq}", row.position)
        if row.prev is not None and row.prev != before:
            raise JournalError(
                "journal_chain",
                f"seq {row.seq} does not follow the event that is shown as seq {expected - 1}",
                row.position,
            )
        if row.kind in TERMINAL_KINDS and expected != len(journal):
            raise JournalError("journal_after_end", f"seq {row.seq} ends the run, yet more follows", row.position)
        before = row.commitment


def contiguous(journal: Sequence[JournalEvent]) -> list[JournalEvent]:
    """The rows from seq 1 up to the first that is missing. `journal` is sorted by seq."""
    return [row for expected, row in enumerate(journal, start=1) if row.seq == expected]


def references(journal: Sequence[JournalEvent]) -> Iterator[Reference]:
    """Every record that the journal refers to. Raises JournalError with code `record_format`."""
    for row in journal:
        if row.body is None:
            continue
        records = row.body.get("records", [])
        if not isinstance(records, list):
            raise JournalError("record_format", f"the records of seq {row.seq} are not a list", row.position)
        for record in records:
            if not isinstance(record, dict) or not is_event_id(record.get("event_id")):
                raise JournalError("record_format", f"a record of seq {row.seq} has no event id", row.position)
            if not is_hex32(record.get("commitment")):
                raise JournalError("record_format", f"a record of seq {row.seq} has no commitment", row.position)
            yield Reference(cast("str", record["event_id"]), cast("str", record["commitment"]), row.position)


def missing(journal: Sequence[JournalEvent], shown: Mapping[str, str]) -> JournalError | None:
    """The first thing that keeps evidence from being whole, or None. `shown` maps event ids to commitments."""
    for reference in references(journal):
        if reference.event_id not in shown:
            return JournalError(
                "record_missing", f"record {reference.event_id} is not in the bundle", reference.position
            )
    if not journal or journal[-1].kind not in TERMINAL_KINDS:
        return JournalError("journal_unterminated", "the journal has no terminal event", "/entries")
    return None


def check_references(journal: Sequence[JournalEvent], shown: Mapping[str, str]) -> None:
    """Check that records that are shown have the commitment that the journal gives."""
    for reference in references(journal):
        found = shown.get(reference.event_id, reference.commitment)
        if found != reference.commitment:
            raise JournalError(
                "record_mismatch",
                f"record {reference.event_id} is not the one that the journal saw",
                reference.position,
            )


def check_approvals(journal: Sequence[JournalEvent]) -> int:
    """Check every decision against what was shown, and who took it; returns the number of decisions that took effect.

    A decision that was refused, and one whose request was erased, shows nothing to check.
    """
    requested: dict[str, JournalEvent] = {}
    erased_request = any(row.body is None and row.kind == "approval.requested" for row in journal)
    decisions = 0
    for row in journal:
        if row.body is None or row.kind not in ("approval.requested", "approval.decided"):
            continue
        approval_id = row.body.get("approval_id")
        if not isinstance(approval_id, str) or not approval_id:
            raise JournalError("approval_format", f"seq {row.seq} names no approval", row.position)
        if row.kind == "approval.requested":
            _check_request(row, row.body)
            requested[approval_id] = row
        elif row.body.get("refused") is None:
            decisions += 1
            request = requested.get(approval_id)
            if request is None and not erased_request:
                raise JournalError("approval_unrequested", f"{approval_id} was decided, never asked for", row.position)
            if request is not None and request.body is not None:
                _check_decision(row, row.body, request.body)
    return decisions


def _check_request(row: JournalEvent, body: Mapping[str, Json]) -> None:
    if not isinstance(body.get("proposer"), str) or not body["proposer"]:
        raise JournalError("approval_format", f"seq {row.seq} names no proposer", row.position)
    if body.get("arguments_digest") != _shown(row, body):
        raise JournalError("approval_digest", f"seq {row.seq} has not the digest of the arguments shown", row.position)


def _shown(row: JournalEvent, body: Mapping[str, Json]) -> Json:
    """Digest of what the approver was shown: of the arguments, or as given where they are stored apart."""
    if "arguments" in body:
        return "sha256:" + hashlib.sha256(dump(body["arguments"])).hexdigest()
    apart = row.apart.get("arguments")
    return apart.get("digest") if isinstance(apart, dict) else None


def _check_decision(row: JournalEvent, body: Mapping[str, Json], request: Mapping[str, Json]) -> None:
    if body.get("arguments_digest") != request["arguments_digest"]:
        raise JournalError("approval_digest", f"seq {row.seq} decides on other arguments than were shown", row.position)
    decider = body.get("decider")
    if decider is None and body.get("decision") == "expire":
        return
    if not isinstance(decider, str) or not decider:
        raise JournalError("approval_format", f"seq {row.seq} names no decider", row.position)
    if decider == request["proposer"]:
        raise JournalError(
            "approval_self", f"{decider} decided at seq {row.seq} on a proposal of their own", row.position
        )
