"""Keys that are rotated while requests and runs go on: no request is refused, and what was proven stays proven."""

import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_testing.desk import Order, check_evidence, check_run, decide, ended, start, until
from fault_testing.ledger import Ledger
from slipway_client import Client
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import verify
from slipway_testkit.stack import Stack

BEFORE, DURING, AFTER = (
    Order(11, "rotation-before", gated=True),
    Order(12, "rotation-during"),
    Order(13, "rotation-after"),
)


def run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@contextmanager
def traffic(client: Client) -> Generator[list[str]]:
    """Requests, one after the other, of every service; a refused one ends the test."""
    stop, failures, answered = threading.Event(), list[BaseException](), list[str]()

    def ask() -> None:
        try:
            while not stop.is_set():
                for request in (client.tools.list, client.knowledge.collections, client.runs.list, client.budgets.list):
                    next(iter(request()), None)
                    answered.append(request.__name__)
        except BaseException as error:  # noqa: BLE001 # told by the thread that waits
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answered
        count = len(answered)
        until(lambda: len(answered) > count + 8 or failures, 30, "requests go on after the rotation")
    finally:
        stop.set()
        thread.join(30)
    assert not failures, failures


def key_of(auditor: Client) -> VerifierKey:
    return VerifierKey.parse(str(auditor.audit.checkpoint().model_dump()["verifier_key"]))


@pytest.mark.timeout(400)
def test_signing_keys_of_gateway_and_log_are_rotated_under_traffic(stack: Stack, ledger: Ledger) -> None:
    keys: Path = stack.data_dir / "keys"
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob, stack.as_user("carol") as carol:
        gated = start(alice, BEFORE)
        until(lambda: alice.runs.get(gated).state == "WAITING_APPROVAL", 60, "the gate")
        old_bundle, old_key = carol.audit.evidence(gated), key_of(carol)
        with traffic(alice) as answered:
            following = run("slipway_gateway.keys", "prepare", keys / "gateway")
            during = start(alice, DURING)
            assert run("slipway_gateway.keys", "rotate", keys / "gateway") == following
            run("slipway_audit.keys", "rotate", keys / "audit")
            after = start(alice, AFTER)
        assert answered
        # Its grant is of the old key, which signs no more.
        for approval in bob.approvals.list(state="pending", run_id=gated):
            decide(bob, approval)
        for run_id, order in ((gated, BEFORE), (during, DURING), (after, AFTER)):
            until(lambda run_id=run_id: ended(alice, run_id), 60, f"{run_id} ends")
            check_run(alice, ledger, run_id, order)
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))))
        new_key = key_of(carol)
        assert new_key != old_key
        assert verify(old_bundle, old_key).summary is not None
        report = verify(carol.audit.evidence(gated), new_key)
        assert report.ok, report.finding
        assert report.summary is not None
        assert report.summary.previous is not None
        published = (keys / "audit" / "log.vkey").read_text().splitlines()
        assert published[:2] == [str(new_key), str(old_key)]
