"""Servers that run and are not as they were: queues purged, permissions taken, a cache emptied, writes refused.

Half an hour on two busy cores, so only where SLIPWAY_FAULT_KILLS is set, as in test_outages.py.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from fault_testing.aftermath import Aftermath
from fault_testing.desk import Order, approve_all, check_evidence, check_run, ended, start, until
from fault_testing.interference import INTERFERENCES
from fault_testing.ledger import Ledger
from fault_testing.library import Library
from fault_testing.outages import KEYCLOAK_KILLS, ON_REQUEST, Outages
from slipway_client import Client

RUNS, DOCUMENTS = 16, 8
# Between the stack and its servers are proxies.
THROUGH_NETWORK = True
KEYCLOAK = pytest.mark.skipif(not KEYCLOAK_KILLS, reason="needs Keycloak in the stack")

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not ON_REQUEST, reason="takes half an hour: SLIPWAY_FAULT_KILLS=2"),
]


@pytest.fixture
def alice(outages: Outages) -> Iterator[Client]:
    with outages.stack.as_user("alice") as client:
        yield client


@pytest.mark.parametrize(
    "interfere",
    [
        pytest.param(one, id=f"{server}-{one.__name__}", marks=[KEYCLOAK] if server == "identity" else [])
        for server, of_server in INTERFERENCES.items()
        for one in of_server
    ],
)
def test_nothing_is_lost_or_done_twice_whatever_is_done_to_a_server(
    calm: Outages, aftermath: Aftermath, alice: Client, ledger: Ledger, interfere: Callable[[Outages], None]
) -> None:
    _work_during([interfere], RUNS, DOCUMENTS, calm, alice, ledger)
    aftermath.check()


def test_nothing_is_lost_or_done_twice_whatever_is_done_to_servers_without_a_rest(
    calm: Outages, aftermath: Aftermath, alice: Client, ledger: Ledger
) -> None:
    all_of_them = [one for server, of in INTERFERENCES.items() if server in calm.servers for one in of]
    _work_during(all_of_them, 3 * len(all_of_them), len(all_of_them), calm, alice, ledger)
    aftermath.check()


def _work_during(
    interferences: Sequence[Callable[[Outages], None]],
    runs: int,
    documents: int,
    calm: Outages,
    alice: Client,
    ledger: Ledger,
) -> None:
    """Begins runs and puts documents while all of that is done, one after the other, and looks at the outcome."""
    tag = secrets.token_hex(4)
    orders = [Order(number, f"{tag}-{number}", gated=number % 5 == 0) for number in range(runs)]
    library, decided, done = Library(), threading.Event(), list[str]()

    def interfere() -> None:
        for one in interferences:
            one(calm)
            done.append(one.__name__)

    with ThreadPoolExecutor(3) as pool, calm.stack.as_user("carol") as carol:
        try:
            approving = pool.submit(approve_all, calm.stack, {order.reference for order in orders}, decided)
            reading = pool.submit(library.use, calm.stack, documents, decided)
            interfering = pool.submit(interfere)
            run_ids: list[str] = []
            for order in orders:
                # Spread over the time of what is done.
                until(
                    lambda: interfering.done() or (len(done) + 1) * runs >= len(run_ids) * len(interferences),
                    300,
                    f"the next interference after {done}",
                )
                run_ids.append(start(alice, order))
            interfering.result(300)
            until(lambda: all(ended(alice, run_id) for run_id in run_ids), 300, "all runs end")
            until(lambda: len(library.words) == documents or reading.done(), 300, "all documents are put")
        finally:
            decided.set()
        approving.result(60)
        reading.result(60)
        for run_id, order in zip(run_ids, orders, strict=True):
            check_run(alice, ledger, run_id, order)
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))), seconds=120)
    library.check(alice, 120)
