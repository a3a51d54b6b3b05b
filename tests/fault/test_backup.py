"""A backup that is taken while runs are going becomes a new installation, which goes on where the old one was."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_testing.desk import Order, check_evidence, check_run, decide, ended, persistent, start, until
from fault_testing.ledger import Ledger
from slipway_client import Client
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import verify
from slipway_testkit.stack import SLIPWAY, Stack

StartStack = Callable[..., Stack]

# Each stays where it is while the backup is taken.
DONE, GATED, HELD = Order(3, "backup-done"), Order(4, "backup-gated", gated=True), Order(5, "backup-held")
GOING = [Order(6 + number, f"backup-going-{number}") for number in range(4)]


def slipway(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run([SLIPWAY, *map(str, arguments)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def verifier(auditor: Client) -> VerifierKey:
    return VerifierKey.parse(str(auditor.audit.checkpoint().model_dump()["verifier_key"]))


@pytest.mark.timeout(900)
def test_a_new_installation_made_of_a_backup_goes_on_where_the_old_one_was(
    stack: Stack, ledger: Ledger, start_stack: StartStack, tmp_path: Path
) -> None:
    document = tmp_path / "note.txt"
    document.write_text("The spare key of the archive hangs behind the painting of the lighthouse.")
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob, stack.as_user("carol") as carol:
        alice.knowledge.put_collection("backup-notes")
        alice.knowledge.put_document("backup-notes", "note.txt", document)
        until(lambda: alice.knowledge.get_document("backup-notes", "note.txt").state == "READY", 60, "indexed")
        session = alice.sessions.create(labels={"about": "backup"}).session_id
        alice.sessions.append(session, [("user", "Where is the key?"), ("assistant", "Behind the lighthouse.")])
        done = start(alice, DONE)
        until(lambda: ended(alice, done), 60, "the first run ends")
        events = len(list(alice.runs.events(done)))
        check_evidence(carol, done, events)
        old_bundle, old_key = carol.audit.evidence(done), verifier(carol)

        ledger.hold(HELD.reference)
        held, gated = start(alice, HELD), start(alice, GATED)
        ledger.wait_for_request(HELD.reference)
        until(lambda: persistent(lambda: alice.runs.get(gated)).state == "WAITING_APPROVAL", 60, "the gate")
        usage = alice.usage.summary("model")
        going = [start(alice, order) for order in GOING]

        folder, passphrase = tmp_path / "backup", tmp_path / "passphrase"
        passphrase.write_text("correct horse battery staple\n")
        said = json.loads(
            slipway("backup", folder, "--data-dir", stack.data_dir, "--passphrase-file", passphrase, "--json")
        )
        assert (said["sessions"] >= 1, said["objects"] >= 1) == (True, True)

        # The old installation lives on for a while: what it does now, the new one does again under the same keys.
        ledger.release(HELD.reference)
        for run_id in (held, *going):
            until(lambda run_id=run_id: ended(alice, run_id), 90, f"{run_id} ends")
        for approval in bob.approvals.list(state="pending", run_id=gated):
            decide(bob, approval)
        until(lambda: ended(alice, gated), 60, "the gated run ends")
        newer = carol.audit.checkpoint().model_dump()["tree_size"]

    data_dir = tmp_path / "new"
    slipway(
        "restore", folder, "--data-dir", data_dir, "--passphrase-file", passphrase,
        "--heads", stack.data_dir / "audit-heads",
    )  # fmt: skip
    restored = start_stack(data_dir, "--allow-http", ledger.address).ready()
    with restored.as_user("alice") as alice, restored.as_user("bob") as bob, restored.as_user("carol") as carol:
        assert alice.usage.summary("model") == usage
        messages = [message.content for message in alice.sessions.messages(session)]
        assert messages == ["Where is the key?", "Behind the lighthouse."]
        (passage, *_) = alice.knowledge.search("backup-notes", "where does the spare key hang?")
        assert "lighthouse" in passage.text

        until(lambda: alice.runs.get(gated).state == "WAITING_APPROVAL", 60, "the gate is there again")
        for approval in bob.approvals.list(state="pending", run_id=gated):
            decide(bob, approval)
        orders = {done: DONE, held: HELD, gated: GATED}
        # Those that were started after the moment of the backup are not in it: it is older than they are.
        known = {run.run_id for run in alice.runs.list(agent="fault-desk")}
        orders |= {run_id: order for run_id, order in zip(going, GOING, strict=True) if run_id in known}
        assert set(going) <= known
        for run_id, order in orders.items():
            until(lambda run_id=run_id: ended(alice, run_id), 90, f"{run_id} ends")
            check_run(alice, ledger, run_id, order)
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))))

        # What was proven stays proven, and the log says that it is another one than before.
        assert verifier(carol) == old_key
        assert verify(old_bundle, old_key).ok
        report = verify(carol.audit.evidence(done), old_key)
        assert report.ok, report.finding
        assert report.summary is not None
        assert report.summary.previous is not None
        assert report.summary.previous.size >= newer
    assert restored.stop() == 0
