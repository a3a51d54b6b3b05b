"""What the verifier says about bundles: good, incomplete, erased, and wrong in each way that the format names."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from slipway_evidence.bundle import Bundle, Entry, Erased, decode, encode
from slipway_evidence.canonical import dump, parse
from slipway_evidence.checkpoint import Checkpoint, Head, previous_line
from slipway_evidence.note import SignerKey, VerifierKey
from slipway_evidence.verify import Outcome, Report, verify

Tell = Callable[[], Any]


def check(story: Any, bundle: Bundle) -> Report:
    return verify(story.log.seal(bundle), story.log.key.verifier)


def code(report: Report) -> str:
    assert report.finding is not None
    return report.finding.code


def test_a_whole_bundle_is_ok_and_says_what_it_shows(story: Tell) -> None:
    run = story().tell()
    report = check(run, run.bundle())
    assert report == Report(Outcome.OK, None, report.summary)
    assert report.exit_status == 0
    assert report.summary is not None
    assert report.summary.head == run.log.head()
    assert (report.summary.entries, report.summary.journal_events, report.summary.records) == (7, 5, 2)
    assert (report.summary.decisions, report.summary.erased) == (1, ())


def test_a_run_that_has_not_ended_is_incomplete_with_an_exit_status_of_its_own(story: Tell) -> None:
    run = story().tell(end=False)
    report = check(run, run.bundle(complete=False))
    assert (report.outcome, report.exit_status, code(report)) == (Outcome.INCOMPLETE, 3, "incomplete")
    assert report.summary is not None


def test_evidence_without_a_referenced_record_is_incomplete_or_wrong_as_it_is_marked(story: Tell) -> None:
    run = story().tell()
    bundle = run.bundle()
    entries = tuple(entry for entry in bundle.entries if "model.call" not in (entry.event or ""))
    assert code(check(run, replace(bundle, entries=entries))) == "record_missing"
    assert check(run, replace(bundle, entries=entries, complete=False)).outcome is Outcome.INCOMPLETE


def test_a_whole_bundle_that_calls_itself_incomplete_is_wrong(story: Tell) -> None:
    run = story().tell()
    assert code(check(run, run.bundle(complete=False))) == "complete_mismatch"


def test_a_run_without_an_end_that_calls_itself_complete_is_wrong(story: Tell) -> None:
    run = story().tell(end=False)
    assert code(check(run, run.bundle())) == "journal_unterminated"


def test_erased_leaves_hold_by_their_commitments_and_are_reported(story: Tell) -> None:
    run = story().tell()
    bundle = run.bundle()
    for number, entry in enumerate(bundle.entries):
        event = parse((entry.event or "").encode())
        assert isinstance(event, dict)
        claim = Erased(str(event["id"]), str(event["type"]))
        if "seq" in event:
            claim = replace(claim, seq=int(str(event["seq"])), kind=str(event["data"]["kind"]))  # type: ignore[index,call-overload]
        report = check(run, run.erase(bundle, number, claim))
        assert report.outcome is Outcome.OK, report
        assert report.summary is not None
        assert report.summary.erased == (entry.index,)


def test_an_erased_journal_event_still_has_to_be_the_one_that_the_next_follows(story: Tell) -> None:
    run = story().tell()
    claim = Erased(run.log.event_id(), "run.event", 1, "run.started")
    bundle = run.erase(run.bundle(), 0, claim)
    stranger = replace(run.log.entry(0), event=None, salt=None, erased=claim)
    assert code(check(run, replace(bundle, entries=(stranger, *bundle.entries[1:])))) == "journal_chain"


def test_a_log_restored_from_backup_verifies_and_names_the_old_head(story: Tell) -> None:
    run = story().tell()
    run.log.origin += "/2"
    bundle = run.bundle()
    old = Head(run.log.origin, 99, b"\x01" * 32)
    signed = Checkpoint(run.log.head(), (previous_line(old),)).sign(run.log.key)
    report = check(run, replace(bundle, checkpoint=signed))
    assert report.summary is not None
    assert report.summary.previous == old


def reseal(story: Any, document: dict[str, Any]) -> bytes:
    """Attest a document as the log's keeper would, so that only what was changed in it can be at fault."""
    document = {name: value for name, value in document.items() if name != "attestation"}
    from hashlib import sha256

    digest = sha256(dump(document)).hexdigest()
    text = f"slipway-evidence/1\n{story.log.origin}\n{document.get('run_id')}\n{digest}\n"
    return dump(document | {"attestation": story.log.key.sign(text)})


def changed(story: Any, change: Callable[[dict[str, Any]], None]) -> Report:
    document: Any = parse(story.log.seal(story.bundle()))
    change(document)
    return verify(reseal(story, document), story.log.key.verifier)


SPOILT: list[tuple[str, Callable[[dict[str, Any]], None]]] = [
    ("unknown_format", lambda d: d.update(format="slipway-evidence/2")),
    ("bundle_format", lambda d: d.update(extra=1)),
    ("bundle_format", lambda d: d.pop("tenant")),
    ("bundle_format", lambda d: d.update(complete=1)),
    ("bundle_format", lambda d: d.update(entries={})),
    ("bundle_format", lambda d: d.update(run_id=7)),
    ("checkpoint_origin", lambda d: d.update(tenant="globex")),
    ("checkpoint_format", lambda d: d.update(checkpoint="text")),
    ("entry_format", lambda d: d["entries"].insert(0, 1)),
    ("entry_format", lambda d: d["entries"][0].update(index=-1)),
    ("entry_format", lambda d: d["entries"][0].update(index=True)),
    ("entry_format", lambda d: d["entries"][0].update(salt="00")),
    ("entry_format", lambda d: d["entries"][0].update(commitment="A" * 64)),
    ("entry_format", lambda d: d["entries"][0].update(proof=["00"])),
    ("entry_format", lambda d: d["entries"][0].update(proof=["00" * 32] * 65)),
    ("entry_format", lambda d: d["entries"][0].pop("salt")),
    ("entry_format", lambda d: d["entries"][0].update(erased={"id": "aev_1", "type": "x"})),
    ("entry_order", lambda d: d["entries"].reverse()),
    ("entry_order", lambda d: d["entries"].insert(1, d["entries"][0])),
    ("commitment_mismatch", lambda d: d["entries"][0].update(salt="00" * 32)),
    ("commitment_mismatch", lambda d: d["entries"][2].update(event=d["entries"][2]["event"].replace("120.5", "920.5"))),
    ("inclusion_proof", lambda d: d["entries"][0].update(index=0)),
    ("inclusion_proof", lambda d: d["entries"][0]["proof"].pop()),
    ("inclusion_proof", lambda d: d["entries"][-1].update(index=10**9)),
    ("journal_gap", lambda d: d["entries"].pop(0)),
    ("event_run", lambda d: d.update(run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4e")),
]


@pytest.mark.parametrize(("expected", "change"), SPOILT, ids=[f"{i}-{one[0]}" for i, one in enumerate(SPOILT)])
def test_a_change_by_the_logs_own_keeper_is_named(
    story: Tell, expected: str, change: Callable[[dict[str, Any]], None]
) -> None:
    assert code(changed(story().tell(), change)) == expected


def test_a_leaf_that_was_stripped_to_look_erased_breaks_the_attestation(story: Tell) -> None:
    run = story().tell()
    whole = decode(run.log.seal(run.bundle()))
    stripped = run.erase(whole, 3, Erased(run.log.event_id(), "run.event", 3, "approval.requested"))
    assert code(verify(encode(stripped), run.log.key.verifier)) == "attestation_mismatch"


def test_an_attestation_of_another_bundle_is_refused(story: Tell) -> None:
    run = story().tell()
    checkpoint = run.bundle().checkpoint
    assert (
        code(verify(encode(replace(run.bundle(), attestation=checkpoint)), run.log.key.verifier))
        == "attestation_mismatch"
    )


def test_another_logs_key_does_not_verify_the_bundle(story: Tell) -> None:
    run = story().tell()
    other = SignerKey.generate(run.log.key.name).verifier
    assert code(verify(run.log.seal(run.bundle()), other)) == "checkpoint_signature"


def test_an_attestation_by_another_key_is_refused(story: Tell) -> None:
    run = story().tell()
    sealed = decode(run.log.seal(run.bundle()))
    text = sealed.attestation.split("\n\n")[0] + "\n"
    forged = replace(sealed, attestation=SignerKey.generate(run.log.key.name).sign(text))
    assert code(verify(encode(forged), run.log.key.verifier)) == "attestation_signature"


def test_a_second_signature_on_the_checkpoint_has_no_place_in_a_bundle(story: Tell) -> None:
    run = story().tell()
    bundle = run.bundle()
    extra = SignerKey.generate("witness.example").sign("x\n").split("\n\n")[1]
    assert code(check(run, replace(bundle, checkpoint=bundle.checkpoint + extra))) == "checkpoint_format"


def test_a_head_for_another_tenant_or_an_odd_generation_is_refused(story: Tell) -> None:
    run = story().tell()
    for origin in ("slipway.dev/test", "slipway.dev/test/globex", "slipway.dev/test/acme/1", "slipway.dev/test/acme/x"):
        head = replace(run.log.head(), origin=origin)
        report = check(run, replace(run.bundle(), checkpoint=Checkpoint(head).sign(run.log.key)))
        assert code(report) == "checkpoint_origin", origin


def test_a_decision_by_the_proposer_is_found(story: Tell) -> None:
    run = story().tell(decider="alice")
    assert code(check(run, run.bundle())) == "approval_self"


def test_an_expired_approval_needs_no_decider(story: Tell) -> None:
    run = story().tell(decider=None, decision="expire")
    assert check(run, run.bundle()).ok
    run = story().tell(decider=None)
    assert code(check(run, run.bundle())) == "approval_format"


def spoilt_journal(story: Tell, write: Callable[[Any], None]) -> str:
    run = story()
    run.journal("run.started", input={})
    write(run)
    run.journal("run.succeeded", output={})
    return code(check(run, run.bundle()))


def test_a_decision_on_other_arguments_than_were_shown_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        run.request({"amount": 1})
        run.decide("sha256:" + "0" * 64)

    assert spoilt_journal(story, write) == "approval_digest"


def test_a_request_whose_digest_is_not_that_of_its_arguments_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        run.journal(
            "approval.requested",
            approval_id="apr_1",
            proposer="alice",
            arguments={"amount": 9000},
            arguments_digest="sha256:" + "0" * 64,
        )

    assert spoilt_journal(story, write) == "approval_digest"


def test_a_decision_that_nobody_asked_for_is_found(story: Tell) -> None:
    assert spoilt_journal(story, lambda run: run.decide("sha256:" + "0" * 64)) == "approval_unrequested"


def test_a_refused_decision_took_no_effect_and_is_no_fault(story: Tell) -> None:
    run = story()
    run.journal("run.started", input={})
    digest = run.request({"amount": 1})
    run.decide(digest, "alice", refused="PROPOSER_IS_APPROVER")
    run.decide(digest, "bob")
    run.journal("run.succeeded", output={})
    report = check(run, run.bundle())
    assert report.ok
    assert report.summary is not None
    assert report.summary.decisions == 1


def test_a_journal_that_goes_on_after_its_end_is_found(story: Tell) -> None:
    assert spoilt_journal(story, lambda run: run.journal("run.failed", code="X")) == "journal_after_end"


def test_a_broken_chain_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        run.last = "1" * 64

    assert spoilt_journal(story, write) == "journal_chain"


def test_a_repeated_sequence_number_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        run.journal("step.started")
        run.seq -= 1

    assert spoilt_journal(story, write) == "journal_duplicate"


def test_a_record_with_another_commitment_than_the_journal_saw_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        record = run.note("tool.call", {"tool": "python"})
        run.journal("step.completed", records=[record | {"commitment": "2" * 64}])

    assert spoilt_journal(story, write) == "record_mismatch"


@pytest.mark.parametrize("records", ["x", ["x"], [{"event_id": "aev_1", "commitment": "0" * 64}]])
def test_malformed_references_are_found(story: Tell, records: object) -> None:
    assert spoilt_journal(story, lambda run: run.journal("step.completed", records=records)) == "record_format"


def test_an_event_without_its_journal_form_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        run.note("other.type", {"kind": "x", "payload": "{}"}, seq=2, prev=run.last)

    assert spoilt_journal(story, write) == "journal_format"


@pytest.mark.parametrize(
    "more",
    [
        {"kind": ""},
        {"payload": 1},
        {"payload": "[]"},
        {"payload": '{"a": 1}'},
        {"payload": "{"},
        {"records": [{"event_id": "aev_1", "commitment": "0" * 64}]},
        {"payloads": []},
    ],
)
def test_a_journal_event_of_another_form_is_found(story: Tell, more: dict[str, Any]) -> None:
    def write(run: Any) -> None:
        run.more = more
        run.journal("step.started", step_id="a")
        run.more = {}

    assert spoilt_journal(story, write) == "journal_format"


def test_arguments_that_are_stored_apart_are_known_by_their_digest(story: Tell) -> None:
    run = story()
    run.journal("run.started", input={})
    digest = "sha256:" + "5" * 64
    for shown in (digest, "sha256:" + "6" * 64):
        run.more = {"payloads": {"arguments": {"digest": shown, "bytes": 70_000}}}
        run.journal("approval.requested", approval_id=f"apr_{shown[-1]}", proposer="alice", arguments_digest=digest)
        run.more = {}
    run.journal("run.succeeded", output={})
    report = check(run, run.bundle())
    assert code(report) == "approval_digest"
    assert report.finding is not None
    assert report.finding.position == "/entries/2"


@pytest.mark.parametrize(
    "members",
    [
        {"schema": 2},
        {"schema": True},
        {"id": "aev_1"},
        {"tenant": "a/b"},
        {"time": "2026-11-24 12:00"},
        {"actor": "alice"},
        {"actor": {}},
        {"service": 7},
        {"extra": 1},
        {"resource": "x" * 1025},
        {"service": "a\nb"},
        {"seq": 0, "prev": "0" * 64},
        {"seq": 1, "prev": "1" * 64},
        {"seq": 2},
        {"prev": "0" * 64},
        {"policy": "x"},
    ],
)
def test_an_event_that_breaks_the_schema_is_found(story: Tell, members: dict[str, Any]) -> None:
    assert spoilt_journal(story, lambda run: run.note("model.call", {}, **members)) == "event_format"


def test_an_event_of_another_tenant_is_found(story: Tell) -> None:
    assert spoilt_journal(story, lambda run: run.note("model.call", {}, tenant="globex")) == "event_tenant"


def test_an_event_id_that_appears_twice_is_found(story: Tell) -> None:
    def write(run: Any) -> None:
        record = run.note("model.call", {})
        run.note("model.call", {}, id=record["event_id"])

    assert spoilt_journal(story, write) == "event_duplicate"


def test_an_event_of_another_run_belongs_in_only_when_the_journal_refers_to_it(story: Tell) -> None:
    def write(run: Any) -> None:
        run.note("model.call", {}, run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4e")

    assert spoilt_journal(story, write) == "event_run"
    run = story()
    record = run.note("model.call", {}, run_id="run_01jdqxf2k0e3vr6m5t8w9y2b4e")
    run.journal("run.started", records=[record])
    run.journal("run.succeeded", output={})
    assert check(run, run.bundle()).ok


def test_no_altered_byte_of_a_bundle_goes_unnoticed(story: Tell) -> None:
    seed = int(os.environ.get("SLIPWAY_TEST_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    dice = random.Random(seed)
    run = story().tell()
    good = run.log.seal(run.bundle())
    assert verify(good, run.log.key.verifier).ok
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= dice.choice([1 << dice.randrange(8), dice.randrange(1, 256)])
        report = verify(bytes(bad), run.log.key.verifier)
        assert report.outcome is Outcome.FAILED, (seed, at, good[at], bad[at])
        assert report.finding is not None
        assert report.finding.message


def test_no_truncated_extended_or_shuffled_bundle_is_ok_or_crashes_the_verifier(story: Tell) -> None:
    seed = int(os.environ.get("SLIPWAY_TEST_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    dice = random.Random(seed)
    run = story().tell()
    good = run.log.seal(run.bundle())
    for _ in range(400):
        first, second = sorted(dice.randrange(len(good)) for _ in range(2))
        for bad in (good[:first], good[:first] + good[second + 1 :], good[:second] + good[first:], good + good[first:]):
            if bad != good:
                assert not verify(bad, run.log.key.verifier).ok, (seed, first, second)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b"[" * 10_000_000,
        b'{"a":' * 100_000,
        b"9" * 1_000_000,
        b"\xff\xfe",
        b'{"format":"slipway-evidence/1"}',
    ],
    ids=range(10),
)
def test_hostile_bytes_are_refused_with_a_code(data: bytes) -> None:
    report = verify(data, SignerKey.generate("slipway.dev/test").verifier)
    assert code(report) in {"not_json", "bundle_format", "unknown_format"}


def test_a_bundle_over_the_limit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch, story: Tell) -> None:
    run = story().tell()
    data = run.log.seal(run.bundle())
    monkeypatch.setattr("slipway_evidence.bundle.MAX_BUNDLE_BYTES", len(data) - 1)
    assert code(verify(data, run.log.key.verifier)) == "bundle_too_large"


def test_the_position_points_into_the_bundle(story: Tell) -> None:
    report = changed(story().tell(), lambda d: d["entries"][2].update(salt="00" * 32))
    assert report.finding is not None
    assert report.finding.position == "/entries/2/commitment"


def test_only_the_public_key_line_is_needed(story: Tell) -> None:
    run = story().tell()
    line = str(run.log.key.verifier)
    assert verify(run.log.seal(run.bundle()), VerifierKey.parse(line)).ok


def test_entries_are_plain_values(story: Tell) -> None:
    run = story().tell()
    bundle = decode(run.log.seal(run.bundle()))
    assert all(isinstance(entry, Entry) for entry in bundle.entries)
    assert decode(encode(bundle)) == bundle
