"""The offline verifier: from a bundle's bytes and a public key to the first thing that does not hold.

The checks, their order and their codes are those of `docs/evidence.md`; a change here is a change there.
"""

import enum
import hashlib
import re
from dataclasses import dataclass

from slipway_evidence import bundle as bundles
from slipway_evidence.bundle import Bundle, BundleError, Entry
from slipway_evidence.checkpoint import Checkpoint, CheckpointError, Head, parse_checkpoint
from slipway_evidence.event import Event, EventError, commitment, parse_event
from slipway_evidence.journal import (
    JournalError,
    JournalEvent,
    check_approvals,
    check_chain,
    check_references,
    journal_event,
    missing,
    references,
)
from slipway_evidence.merkle import ProofError, leaf_hash, verify_inclusion
from slipway_evidence.note import Note, NoteError, SignatureError, VerifierKey, parse_note


class Outcome(enum.StrEnum):
    """What became of a verification."""

    OK = "ok"
    FAILED = "failed"
    INCOMPLETE = "incomplete"


EXIT_STATUS = {Outcome.OK: 0, Outcome.FAILED: 1, Outcome.INCOMPLETE: 3}


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not hold: a stable code, a sentence, and where (a JSON pointer into the bundle)."""

    code: str
    message: str
    position: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a bundle that holds shows."""

    tenant: str
    run_id: str
    head: Head
    previous: Head | None
    entries: int
    journal_events: int
    records: int
    decisions: int
    erased: tuple[int, ...]
    """Log indexes of the leaves whose content was erased: what they were is the log keeper's word."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a verification. `summary` is None when it failed; `finding` is None when it is ok."""

    outcome: Outcome
    finding: Finding | None = None
    summary: Summary | None = None

    @property
    def ok(self) -> bool:
        """True when everything holds and the bundle covers the whole run."""
        return self.outcome is Outcome.OK

    @property
    def exit_status(self) -> int:
        """Exit status of a command: 0 ok, 1 failed, 3 incomplete."""
        return EXIT_STATUS[self.outcome]


class _Failure(Exception):
    def __init__(self, code: str, message: str, position: str) -> None:
        super().__init__(message)
        self.finding = Finding(code, message, position)


def verify(data: bytes, key: VerifierKey) -> Report:
    """Verify a bundle against the public key of the log that it was taken from. Never raises, whatever the bytes."""
    try:
        return _verify(bundles.decode(data), key)
    except (BundleError, JournalError) as error:
        return Report(Outcome.FAILED, Finding(error.code, str(error), error.position))
    except _Failure as failure:
        return Report(Outcome.FAILED, failure.finding)


def _verify(bundle: Bundle, key: VerifierKey) -> Report:
    checkpoint = _checkpoint(bundle, key)
    events = _entries(bundle, checkpoint.head)
    shown = _ids(bundle, events)
    journal = _journal(bundle, events)
    check_chain(journal)
    check_references(journal, shown)
    _check_scope(bundle, events, {reference.event_id for reference in references(journal)})
    decisions = check_approvals(journal)
    gap = missing(journal, shown)
    if gap is not None and bundle.complete:
        raise gap
    if gap is None and not bundle.complete:
        raise _Failure("complete_mismatch", "marked incomplete, yet nothing is missing", "/complete")
    _attestation(bundle, checkpoint.head.origin, key)
    summary = Summary(
        tenant=bundle.tenant,
        run_id=bundle.run_id,
        head=checkpoint.head,
        previous=checkpoint.previous,
        entries=len(bundle.entries),
        journal_events=len(journal),
        records=len(bundle.entries) - len(journal),
        decisions=decisions,
        erased=tuple(entry.index for entry in bundle.entries if entry.erased is not None),
    )
    if gap is not None:
        finding = Finding("incomplete", f"the evidence is incomplete so far: {gap}", gap.position)
        return Report(Outcome.INCOMPLETE, finding, summary)
    return Report(Outcome.OK, None, summary)


def _signed(text: str, key: VerifierKey, member: str) -> Note:
    """A note with exactly one signature, which is the key's."""
    try:
        note = parse_note(text)
        if len(note.signatures) != 1:
            raise NoteError("a bundle's notes have one signature, the log's")
    except NoteError as error:
        raise _Failure(f"{member}_format", str(error), f"/{member}") from None
    try:
        key.verify(note)
    except SignatureError as error:
        raise _Failure(f"{member}_signature", str(error), f"/{member}") from None
    return note


def _checkpoint(bundle: Bundle, key: VerifierKey) -> Checkpoint:
    note = _signed(bundle.checkpoint, key, "checkpoint")
    try:
        checkpoint = parse_checkpoint(note.text)
    except CheckpointError as error:
        raise _Failure("checkpoint_format", str(error), "/checkpoint") from None
    origin = checkpoint.head.origin
    log = f"{key.name}/{bundle.tenant}"
    if not re.fullmatch(re.escape(log) + r"(/([2-9]|[1-9][0-9]{1,8}))?", origin):
        raise _Failure("checkpoint_origin", f"signed for {origin}, which is not a log of {log}", "/checkpoint")
    return checkpoint


def _entries(bundle: Bundle, head: Head) -> list[Event | None]:
    events: list[Event | None] = []
    last = -1
    for number, entry in enumerate(bundle.entries):
        position = f"/entries/{number}"
        if entry.index <= last:
            raise _Failure("entry_order", f"leaf {entry.index} follows leaf {last}", f"{position}/index")
        last = entry.index
        event = _event(bundle, entry, position) if entry.erased is None else None
        try:
            verify_inclusion(entry.index, head.size, leaf_hash(entry.commitment), entry.proof, head.root)
        except ProofError as error:
            raise _Failure("inclusion_proof", f"leaf {entry.index}: {error}", f"{position}/proof") from None
        events.append(event)
    return events


def _event(bundle: Bundle, entry: Entry, position: str) -> Event:
    text, salt = entry.event or "", entry.salt or b""
    canonical = text.encode()
    if commitment(salt, canonical) != entry.commitment:
        raise _Failure(
            "commitment_mismatch", "the commitment is not that of the salt and the event", f"{position}/commitment"
        )
    try:
        event = parse_event(canonical)
    except EventError as error:
        where = f"{position}/event"
        said = f"{error.member}: {error}" if error.member else str(error)
        raise _Failure("event_format", f"the event breaks its schema: {said}", where) from None
    if event.tenant != bundle.tenant:
        raise _Failure("event_tenant", f"the event belongs to tenant {event.tenant}", f"{position}/event")
    return event


def _ids(bundle: Bundle, events: list[Event | None]) -> dict[str, str]:
    """Commitment of every event by its id."""
    shown: dict[str, str] = {}
    for number, (entry, event) in enumerate(zip(bundle.entries, events, strict=True)):
        event_id = event.id if event is not None else entry.erased.id if entry.erased is not None else ""
        if event_id in shown:
            raise _Failure("event_duplicate", f"event {event_id} is there twice", f"/entries/{number}")
        shown[event_id] = entry.commitment.hex()
    return shown


def _journal(bundle: Bundle, events: list[Event | None]) -> list[JournalEvent]:
    journal: list[JournalEvent] = []
    for number, (entry, event) in enumerate(zip(bundle.entries, events, strict=True)):
        position, digest = f"/entries/{number}", entry.commitment.hex()
        if event is not None and event.seq is not None and event.run_id == bundle.run_id:
            journal.append(journal_event(event, digest, position))
        elif entry.erased is not None and entry.erased.seq is not None:
            journal.append(JournalEvent(entry.erased.seq, entry.erased.kind, digest, position))
    return sorted(journal, key=lambda row: row.seq)


def _check_scope(bundle: Bundle, events: list[Event | None], referenced: set[str]) -> None:
    """An event of another run belongs into the bundle only when the journal refers to it."""
    for number, event in enumerate(events):
        if event is not None and event.run_id != bundle.run_id and event.id not in referenced:
            raise _Failure("event_run", f"event {event.id} is not one of this run", f"/entries/{number}/event")


def _attestation(bundle: Bundle, origin: str, key: VerifierKey) -> None:
    note = _signed(bundle.attestation, key, "attestation")
    digest = hashlib.sha256(bundles.body(bundle)).hexdigest()
    if note.text != bundles.attestation_text(origin, bundle.run_id, digest):
        raise _Failure("attestation_mismatch", "the attestation was made for another bundle", "/attestation")
