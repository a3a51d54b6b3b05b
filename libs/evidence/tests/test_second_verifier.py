"""docs/evidence.md is enough to write a verifier from: the second one says what the first one says."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from slipway_evidence.bundle import Erased
from slipway_evidence.canonical import dump, parse
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import Outcome, verify

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

import example
import second_verifier

ROOT = Path(__file__).parents[3]
Tell = Callable[[], Any]


def first(data: bytes, key: VerifierKey) -> str:
    report = verify(data, key)
    return "ok" if report.ok else report.finding.code if report.finding else ""


def both(data: bytes, key: VerifierKey) -> str:
    """The code that both say. They may differ on whether bytes are bad JSON or no canonical JSON."""
    one, two = first(data, key), second_verifier.verify(data, str(key))
    syntax = {"not_json", "not_canonical"}
    assert one == two or {one, two} == syntax, (one, two)
    return one


def test_the_second_verifier_is_independent() -> None:
    source = (Path(__file__).parent / "second_verifier.py").read_text()
    assert "slipway_" not in source


def test_both_verifiers_agree_on_good_incomplete_and_erased_bundles(story: Tell) -> None:
    whole, open_end = story().tell(), story().tell(end=False)
    assert both(whole.log.seal(whole.bundle()), whole.log.key.verifier) == "ok"
    assert both(open_end.log.seal(open_end.bundle(complete=False)), open_end.log.key.verifier) == "incomplete"
    started = parse((whole.bundle().entries[0].event or "").encode())
    assert isinstance(started, dict)
    claim = Erased(str(started["id"]), "run.event", 1, "run.started")
    assert both(whole.log.seal(whole.erase(whole.bundle(), 0, claim)), whole.log.key.verifier) == "ok"


def test_both_verifiers_name_the_same_code_for_every_altered_byte(story: Tell) -> None:
    seed = int(os.environ.get("SLIPWAY_TEST_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    dice = random.Random(seed)
    run = story().tell()
    good = run.log.seal(run.bundle())
    seen: set[str] = set()
    for at in range(0, len(good), 3):
        bad = bytearray(good)
        bad[at] ^= dice.choice([1 << dice.randrange(8), dice.randrange(1, 256)])
        seen.add(both(bytes(bad), run.log.key.verifier))
    assert "ok" not in seen
    assert {"commitment_mismatch", "inclusion_proof", "checkpoint_signature", "bundle_format"} <= seen


CODES = (
    ("approval_self", lambda run: run.decide(run.request({"a": 1}), "alice")),
    ("approval_digest", lambda run: (run.request({"a": 1}), run.decide("sha256:" + "0" * 64))),
    ("approval_unrequested", lambda run: run.decide("sha256:" + "0" * 64)),
    ("approval_format", lambda run: run.decide(run.request({"a": 1}), None)),
    ("approval_format", lambda run: run.request({"a": 1}, "")),
    ("journal_after_end", lambda run: run.journal("run.failed")),
    ("journal_chain", lambda run: setattr(run, "last", "1" * 64)),
    ("journal_duplicate", lambda run: (run.journal("step.started"), setattr(run, "seq", 1))),
    ("journal_gap", lambda run: setattr(run, "seq", 5)),
    ("journal_format", lambda run: run.note("other", {"kind": "x", "payload": "{}"}, seq=2, prev=run.last)),
    ("record_format", lambda run: run.journal("step.completed", records=["x"])),
    (
        "record_missing",
        lambda run: run.journal("x", records=[{"event_id": f"aev_0{'1' * 25}", "commitment": "2" * 64}]),
    ),
    ("record_mismatch", lambda run: run.journal("x", records=[run.note("t", {}) | {"commitment": "2" * 64}])),
    ("event_tenant", lambda run: run.note("model.call", {}, tenant="globex")),
    ("event_run", lambda run: run.note("model.call", {}, run_id="run_other")),
    ("event_duplicate", lambda run: run.note("t", {}, id=run.note("t", {})["event_id"])),
    *(
        ("event_format", lambda run, change=change: run.note("model.call", {}, **change))
        for change in (
            {"schema": 2},
            {"schema": True},
            {"id": "aev_1"},
            {"tenant": "a/b"},
            {"time": "2026-11-24 12:00"},
            {"actor": {}},
            {"extra": 1},
            {"resource": "x" * 1025},
            {"service": ""},
            {"seq": 0, "prev": "0" * 64},
            {"seq": 1, "prev": "1" * 64},
            {"prev": "0" * 64},
            {"policy": "x"},
        )
    ),
)


@pytest.mark.parametrize(("code", "write"), CODES, ids=[f"{i}-{one[0]}" for i, one in enumerate(CODES)])
def test_both_verifiers_find_the_same_fault_in_what_the_logs_own_keeper_signed(
    story: Tell, code: str, write: Callable[[Any], object]
) -> None:
    run = story()
    run.journal("run.started", input={})
    write(run)
    run.journal("run.succeeded", output={})
    assert both(run.log.seal(run.bundle()), run.log.key.verifier) == code


def test_both_verifiers_agree_on_bundles_of_another_form(story: Tell) -> None:
    run = story().tell()
    key = run.log.key.verifier
    document: Any = parse(run.log.seal(run.bundle()))
    for change in (
        {"format": "other/1"},
        {"extra": 1},
        {"complete": 1},
        {"entries": [1]},
        {"entries": {}},
        {"tenant": "globex"},
        {"checkpoint": "x"},
        {"checkpoint": document["checkpoint"] + "— name AAAAAAA=\n"},
        {"checkpoint": run.log.key.sign("one\n")},
        {"checkpoint": run.log.key.sign("slipway.dev/test/acme\n07\nx\n")},
        {"attestation": "x"},
        {"attestation": document["checkpoint"]},
        {"complete": False},
        {"entries": document["entries"][::-1]},
        {"entries": [document["entries"][0] | {"erased": {}}]},
    ):
        assert both(dump(document | change), key) not in ("ok", "incomplete"), change
    for data in (b"", b"null", b"[" * 5000, b'{"a":1e999}', b'{"a":"\\ud800"}', b"[" * 65 + b"]" * 65):
        assert both(data, key) != "ok"


def test_the_documents_example_is_what_it_says_it_is() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text()
    data, section = example.build()
    assert page.partition("<!-- example -->\n")[2] == section
    shown = page.rpartition("```json\n")[2].partition("\n```")[0]
    assert shown.encode() == data
    line = page.partition("Verifier key:\n\n    ")[2].partition("\n")[0]
    assert both(shown.encode(), VerifierKey.parse(line)) == "ok"


def test_every_code_that_the_document_names_is_one_that_the_verifier_says_and_the_other_way_round() -> None:
    import re

    sources = "".join(
        (ROOT / "libs/evidence/slipway_evidence" / name).read_text()
        for name in ("bundle.py", "journal.py", "verify.py")
    )
    said = set(re.findall(r'(?:Error|Failure|Finding)\(\s*"([a-z_]+)"', sources)) | {"entry_format"}
    said |= {f"{member}_{what}" for member in ("checkpoint", "attestation") for what in ("format", "signature")}
    table = (ROOT / "docs" / "evidence.md").read_text().partition("## 4.")[2].partition("## 5.")[0]
    named = set(re.findall(r"\| `([a-z_]+)` \|$", table, re.MULTILINE)) | {"incomplete"}
    assert named == said


def test_the_second_verifier_is_a_program(tmp_path: Path) -> None:
    data, _ = example.build()
    (tmp_path / "bundle").write_bytes(data)
    (tmp_path / "key").write_text(f"{example.KEY.verifier}\n")
    program = Path(__file__).parent / "second_verifier.py"
    command = [sys.executable, str(program), str(tmp_path / "bundle"), str(tmp_path / "key")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "ok\n"


def test_a_verifier_that_is_given_the_wrong_key_of_the_same_name_says_so(story: Tell) -> None:
    run = story().tell()
    other = replace(run.log.key.verifier, public=example.KEY.verifier.public)
    assert both(run.log.seal(run.bundle()), other) == "checkpoint_signature"
    assert verify(b"", other).outcome is Outcome.FAILED
