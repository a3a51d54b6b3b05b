"""Servers that run and are not as they were: queues purged, permissions taken, a cache emptied, writes refused.

Ten minutes on two busy cores, so only where SLIPWAY_FAULT_KILLS is set, as in test_outages.py.
"""

import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_testing.desk import Order, approve_all, check_evidence, check_run, ended, start, until
from fault_testing.interference import INTERFERENCES
from fault_testing.ledger import Ledger
from fault_testing.library import Library
from fault_testing.outages import Outages
from slipway_client import Client

RUNS, DOCUMENTS = 16, 8

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(900),
    pytest.mark.skipif("SLIPWAY_FAULT_KILLS" not in os.environ, reason="takes ten minutes: SLIPWAY_FAULT_KILLS=2"),
]


@pytest.fixture
def alice(outages: Outages) -> Iterator[Client]:
    with outages.stack.as_user("alice") as client:
        yield client


@pytest.mark.parametrize("interfere", INTERFERENCES, ids=lambda one: one.__name__)
def test_nothing_is_lost_or_done_twice_whatever_an_operator_does_to_a_server(
    calm: Outages, alice: Client, ledger: Ledger, interfere: Callable[[Outages], None]
) -> None:
    tag = f"{interfere.__name__}-{secrets.token_hex(4)}"
    orders = [Order(number, f"{tag}-{number}", gated=number % 5 == 0) for number in range(RUNS)]
    library, decided = Library(), threading.Event()
    with ThreadPoolExecutor(3) as pool, calm.stack.as_user("carol") as carol:
        try:
            approving = pool.submit(approve_all, calm.stack, {order.reference for order in orders}, decided)
            reading = pool.submit(library.use, calm.stack, DOCUMENTS, decided)
            interfering = pool.submit(interfere, calm)
            run_ids = [start(alice, order) for order in orders]
            interfering.result(300)
            until(lambda: all(ended(alice, run_id) for run_id in run_ids), 300, "all runs end")
            until(lambda: len(library.words) == DOCUMENTS or reading.done(), 120, "all documents are put")
        finally:
            decided.set()
        approving.result(60)
        reading.result(60)
        for run_id, order in zip(run_ids, orders, strict=True):
            check_run(alice, ledger, run_id, order)
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))), seconds=120)
    library.check(alice, 120)
    assert calm.alive()
    until(calm.well, 60, "nobody misses anything any more")
