"""A worker that freezes past its lease and comes back: a zombie."""

import secrets

import pytest
from fault_testing.desk import Order, check_evidence, check_run, ended, start, until
from fault_testing.ledger import Ledger
from fault_testing.processes import freeze, kill, metric, thaw
from slipway_testkit.stack import Stack

WORKERS = ("worker-1", "worker-2")


def holder(stack: Stack) -> str | None:
    """The worker that advances a run now."""
    return next((name for name in WORKERS if metric(stack, name, "slipway_runs_active") > 0), None)


@pytest.mark.timeout(180)
def test_a_worker_that_comes_back_after_its_lease_doubles_nothing(stack: Stack, ledger: Ledger) -> None:
    order = Order(11, f"frozen-{secrets.token_hex(4)}")
    ledger.hold(order.reference)
    with stack.as_user("alice") as alice, stack.as_user("carol") as carol:
        run_id = start(alice, order)
        # The effect is under way: the worker waits for the ledger, which waits for this test.
        ledger.wait_for_request(order.reference)
        frozen = holder(stack)
        assert frozen is not None
        other = next(name for name in WORKERS if name != frozen)
        recovered = metric(stack, other, "slipway_leases_recovered_total")
        lost = metric(stack, frozen, "slipway_leases_lost_total")
        pid = stack.pid(frozen)
        freeze(pid)
        try:
            until(
                lambda: metric(stack, other, "slipway_leases_recovered_total") == recovered + 1,
                60,
                "the other worker takes the run over",
            )
            ledger.release(order.reference)
            until(lambda: ended(alice, run_id), 60, "the other worker finishes the run")
            journal = [event.model_dump() for event in alice.runs.events(run_id)]
        finally:
            thaw(pid)
        assert stack.pid(frozen) == pid
        until(
            lambda: metric(stack, frozen, "slipway_leases_lost_total") == lost + 1, 60, "the zombie learns of its loss"
        )
        assert [event.model_dump() for event in alice.runs.events(run_id)] == journal
        check_run(alice, ledger, run_id, order)
        assert ledger.requests(order.reference) == 1
        assert [event["kind"] for event in journal].count("run.recovered") == 1
        check_evidence(carol, run_id, len(journal))

        # It is a worker like any other again: alone, it does the work.
        heard = len(stack.lines)
        assert kill(stack, other)
        again = Order(12, f"thawed-{secrets.token_hex(4)}")
        second = start(alice, again)
        until(lambda: ended(alice, second), 60, "the worker that was frozen works")
        check_run(alice, ledger, second, again)
        stack.wait_for(rf"ready\s+{other}", start=heard)
