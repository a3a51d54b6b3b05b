"""Exporting evidence, and verifying it with no server at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slipway_evidence.bundle import Bundle, Entry, attest, encode
from slipway_evidence.canonical import dump
from slipway_evidence.checkpoint import Checkpoint, Head
from slipway_evidence.event import GENESIS, commitment
from slipway_evidence.merkle import leaf_hash, node_hash
from slipway_evidence.note import SignerKey
from slipway_testkit.scripted_server import ScriptedServer, answers
from typer.testing import Result

Slipway = Callable[..., Result]
RUN = "run_01jdqxf2k0e3vr6m5t8w9y2b4c"
KEY = SignerKey.generate("slipway.dev/test")


def evidence(*, ended: bool) -> bytes:
    """A run of two events in a log of two, as the audit service would hand it out."""
    texts: list[str] = []
    commitments: list[bytes] = []
    salt = b"\x07" * 32
    for seq, kind in ((1, "run.started"), (2, "run.succeeded" if ended else "run.waiting")):
        data: dict[str, Any] = {"kind": kind, "epoch": 1, "payload": "{}"}
        event = {
            "schema": 1,
            "id": f"aev_01jdqxf2k0e3vr6m5t8w9y2b{seq:02}",
            "type": "run.event",
            "tenant": "acme",
            "time": "2026-11-24T12:00:00.5Z",
            "service": "orchestrator",
            "actor": {"subject": "alice", "kind": "user", "roles": ["operator"]},
            "subject": "alice",
            "run_id": RUN,
            "seq": seq,
            "prev": commitments[-1].hex() if commitments else GENESIS,
            "data": data,
        }
        texts.append(dump(event).decode())
        commitments.append(commitment(salt, texts[-1].encode()))
    leaves = [leaf_hash(one) for one in commitments]
    origin = f"{KEY.name}/acme"
    checkpoint = Checkpoint(Head(origin, 2, node_hash(*leaves))).sign(KEY)
    entries = tuple(Entry(i, commitments[i], (leaves[1 - i],), texts[i], salt) for i in range(2))
    return encode(attest(Bundle("acme", RUN, ended, checkpoint, entries), origin, KEY))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "log.vkey"
    file.write_text(f"{KEY.verifier}\n")
    return file


@pytest.fixture
def verify(slipway: Slipway, tmp_path: Path, key_file: Path) -> Callable[..., Result]:
    def run(bundle: bytes, *more: str) -> Result:
        file = tmp_path / "evidence.json"
        file.write_bytes(bundle)
        return slipway("audit", "verify", str(file), "--key", str(key_file), *more)

    return run


def test_evidence_that_holds_is_0_and_says_what_it_shows(
    verify: Callable[..., Result], gateway: ScriptedServer
) -> None:
    done = verify(evidence(ended=True))
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"ok: {RUN} of acme, 2 events verified (2 of the journal, 0 records, 0 decisions) in a log of 2\n"
    )
    assert gateway.asked == []


def test_evidence_that_was_altered_is_1_and_names_the_place(verify: Callable[..., Result]) -> None:
    done = verify(evidence(ended=True).replace(b"alice", b"mallo", 1))
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("commitment_mismatch at /entries/0")
    told = json.loads(verify(b"{}", "--json").stdout)
    assert (told["outcome"], told["summary"]) == ("failed", None)
    assert told["finding"]["code"] == "unknown_format"


def test_evidence_of_a_run_that_goes_on_is_3(verify: Callable[..., Result]) -> None:
    done = verify(evidence(ended=False))
    assert done.exit_code == 3
    assert done.stdout.startswith(f"incomplete: {RUN}")
    assert "incomplete at" in done.stderr


def test_json_tells_outcome_and_summary(verify: Callable[..., Result]) -> None:
    done = verify(evidence(ended=True), "--json")
    assert json.loads(done.stdout) == {
        "outcome": "ok",
        "finding": None,
        "summary": {
            "tenant": "acme",
            "run_id": RUN,
            "entries": 2,
            "journal_events": 2,
            "records": 0,
            "decisions": 0,
            "erased": [],
            "tree_size": 2,
        },
    }


def test_another_logs_key_verifies_nothing(verify: Callable[..., Result], key_file: Path) -> None:
    key_file.write_text(str(SignerKey.generate(KEY.name).verifier))
    done = verify(evidence(ended=True))
    assert done.exit_code == 1
    assert done.stderr.startswith("checkpoint_signature")


@pytest.mark.parametrize("text", ["", "no key", "\udcff"])
def test_a_file_that_holds_no_key_is_2(verify: Callable[..., Result], key_file: Path, text: str) -> None:
    key_file.write_text(text, errors="surrogateescape")
    done = verify(evidence(ended=True))
    assert done.exit_code == 2
    assert "no verifier key" in done.stderr


def test_a_missing_file_is_2(slipway: Slipway, key_file: Path) -> None:
    assert slipway("audit", "verify", "/no/such/file", "--key", str(key_file)).exit_code == 2


def test_exported_evidence_and_key_verify_each_other(slipway: Slipway, gateway: ScriptedServer, tmp_path: Path) -> None:
    bundle, key = tmp_path / "run.json", tmp_path / "key"
    gateway.then(
        answers(evidence(ended=True)), answers({"note": "n", "tree_size": 2, "verifier_key": str(KEY.verifier)})
    )
    assert slipway("audit", "export", RUN, "-o", str(bundle)).exit_code == 0
    assert slipway("audit", "key", "-o", str(key)).stdout == f"{KEY.verifier}\n"
    assert bundle.read_bytes() == evidence(ended=True)
    assert slipway("audit", "verify", str(bundle), "--key", str(key)).exit_code == 0


def test_a_place_that_cannot_be_written_is_2(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers(evidence(ended=True)))
    done = slipway("audit", "export", RUN, "-o", "/no/such/folder/run.json")
    assert done.exit_code == 2
    assert "/no/such/folder/run.json cannot be written" in done.stderr
