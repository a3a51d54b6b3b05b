"""Every server that the stack uses is away, by itself and with others, under load: docs/faults.md, row by row.

`SLIPWAY_FAULT_KILLS=20 SLIPWAY_FAULT_RUNS=200` kills every server twenty times under two hundred runs. With
SLIPWAY_FAULT_KILLS Keycloak is among the servers, and killed while others are; without it, for its start takes half a
minute, people sign in at the development issuer. SLIPWAY_FAULT_KEYCLOAK_KILLS is for machines where it takes minutes: 0
leaves it out.
"""

import os
import random
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from fault_testing.aftermath import Aftermath
from fault_testing.correspondence import Correspondence
from fault_testing.desk import (
    Order,
    approve_all,
    check_evidence,
    check_run,
    ended,
    persistent,
    start,
    until,
)
from fault_testing.ledger import Ledger
from fault_testing.library import COLLECTION, Library
from fault_testing.outages import KEYCLOAK_KILLS, KILLS, Outages
from slipway_cli import session
from slipway_client import Client
from slipway_client.errors import ConnectionFailedError

RUNS = int(os.environ.get("SLIPWAY_FAULT_RUNS", "12"))
# Of a busy machine: a kill takes its server's time to start again, a run a few seconds of two workers.
PATIENCE = 120 + 60 * KILLS + 60 * KEYCLOAK_KILLS + 3 * RUNS

pytestmark = [pytest.mark.servers, pytest.mark.timeout(PATIENCE * 2)]


@pytest.fixture
def alice(outages: Outages) -> Iterator[Client]:
    with outages.stack.as_user("alice") as client:
        yield client


@pytest.fixture
def web(outages: Outages) -> Iterator[httpx.Client]:
    """The API without a client that knows it, as alice."""
    source = session.token_source(outages.stack.data_dir, "alice")
    token = source if isinstance(source, str) else source()
    with httpx.Client(
        base_url=outages.stack.url, headers={"authorization": f"Bearer {token}"}, timeout=60, trust_env=False
    ) as client:
        yield client


def upload(web: httpx.Client, data: bytes) -> httpx.Response:
    return web.post("/v1/files", files={"file": ("a.bin", data)})


def test_without_the_object_store_only_what_needs_bytes_is_refused(
    calm: Outages, web: httpx.Client, alice: Client
) -> None:
    kept = upload(web, b"kept").raise_for_status().json()["file_id"]
    with calm.of("objects"):
        refused = upload(web, b"refused")
        assert refused.status_code == 503, refused.text
        assert refused.json()["code"] == "OBJECT_STORE_UNAVAILABLE"
        assert int(refused.headers["retry-after"]) >= 1
        assert web.get(f"/v1/files/{kept}/content").json()["code"] == "OBJECT_STORE_UNAVAILABLE"
        assert web.get(f"/v1/files/{kept}").is_success
        assert alice.sessions.create().session_id
        until(lambda: calm.named("objects", "degraded"), 20, "the memory service names the object store")
        assert calm.alive()
    assert web.get(f"/v1/files/{kept}/content").content == b"kept"
    assert upload(web, b"again").status_code == 201
    until(calm.well, 30, "nobody misses the object store any more")


def test_without_redis_only_sessions_are_refused(
    calm: Outages, web: httpx.Client, alice: Client, ledger: Ledger
) -> None:
    session_id = alice.sessions.create().session_id
    alice.sessions.append(session_id, [("user", "before")])
    order = Order(7, f"redis-{secrets.token_hex(4)}")
    with calm.of("redis"):
        refused = web.get(f"/v1/sessions/{session_id}")
        assert (refused.status_code, refused.json()["code"]) == (503, "SESSION_STORE_UNAVAILABLE")
        run_id = start(alice, order)
        until(lambda: ended(alice, run_id), 60, "a run ends without Redis")
        until(lambda: calm.named("redis", "degraded"), 20, "who uses Redis names it")
        assert calm.alive()
    until(calm.well, 30, "nobody misses Redis any more")
    assert [message.content for message in alice.sessions.messages(session_id)] == ["before"]
    check_run(alice, ledger, run_id, order)


def test_without_weaviate_only_searches_are_refused_and_documents_follow(
    calm: Outages, web: httpx.Client, alice: Client, ledger: Ledger
) -> None:
    library = Library()
    library.put(alice)
    library.check(alice, 60)
    order = Order(13, f"weaviate-{secrets.token_hex(4)}")
    with calm.of("weaviate"):
        refused = web.post(f"/v1/collections/{COLLECTION}/search", json={"query": "ordinary"})
        assert (refused.status_code, refused.json()["code"]) == (503, "VECTOR_STORE_UNAVAILABLE"), refused.text
        assert int(refused.headers["retry-after"]) >= 1
        waiting = library.put(alice)
        run_id = start(alice, order)
        until(lambda: ended(alice, run_id), 60, "a run ends without Weaviate")
        until(lambda: calm.named("weaviate", "degraded"), 20, "the memory service names Weaviate")
        assert calm.alive()
        assert alice.knowledge.get_document(COLLECTION, waiting).state == "INDEXING"
    library.check(alice, 60)
    until(calm.well, 30, "nobody misses Weaviate any more")
    check_run(alice, ledger, run_id, order)


@pytest.mark.skipif(not KEYCLOAK_KILLS, reason="needs Keycloak in the stack: SLIPWAY_FAULT_KILLS=2")
def test_without_keycloak_who_is_signed_in_goes_on_and_runs_wait_for_the_directory(
    calm: Outages, web: httpx.Client, alice: Client, ledger: Ledger
) -> None:
    order = Order(17, f"keycloak-{secrets.token_hex(4)}")
    with calm.stack.as_user("bob") as bob:
        # Tokens are fetched by the first call that needs one.
        assert (alice.whoami().subject, bob.whoami().subject) == ("alice", "bob")
        with calm.of("identity"):
            assert web.get("/v1/whoami").is_success
            assert bob.whoami().subject == "bob"
            run_id = start(alice, order)
            with pytest.raises(ConnectionFailedError), calm.stack.as_user("carol") as carol:
                carol.whoami()
            until(calm.well, 30, "readiness does not depend on the identity provider")
            assert calm.alive()
        with calm.stack.as_user("carol") as carol:
            assert carol.whoami().subject == "carol"
    until(lambda: ended(alice, run_id), 90, "the run that waited for the directory ends")
    check_run(alice, ledger, run_id, order)


def test_without_postgresql_requests_are_refused_and_a_run_in_a_step_goes_on_afterwards(
    calm: Outages, web: httpx.Client, alice: Client, ledger: Ledger
) -> None:
    order = Order(11, f"postgres-{secrets.token_hex(4)}")
    ledger.hold(order.reference)
    run_id = start(alice, order)
    ledger.wait_for_request(order.reference)
    with calm.of("postgres"):
        until(lambda: calm.named("postgres", "missing"), 30, "every process names PostgreSQL")
        refused = web.get(f"/v1/runs/{run_id}")
        assert refused.status_code == 503, refused.text
        assert refused.json()["code"] == "STORE_UNAVAILABLE"
        assert int(refused.headers["retry-after"]) >= 1
        assert calm.alive()
        # The outside world acts, and the worker can't write down that it did.
        ledger.release(order.reference)
    until(calm.well, 60, "nobody misses PostgreSQL any more")
    until(lambda: ended(alice, run_id), 60, "the run goes on")
    check_run(alice, ledger, run_id, order)


def test_no_run_is_lost_or_done_twice_while_servers_are_killed_one_at_a_time_and_together(
    calm: Outages, aftermath: Aftermath, alice: Client, ledger: Ledger
) -> None:
    seed = int(os.environ.get("SLIPWAY_FAULT_SEED") or secrets.randbits(32))
    print(f"seed {seed}: set SLIPWAY_FAULT_SEED to it for the same servers in the same order")
    draw = random.Random(seed)
    orders = [Order(draw.randrange(10_000), f"outages-{seed}-{n}", gated=n % 3 == 0) for n in range(RUNS)]
    # Every server is killed as often; one time in four all of them at once. Keycloak has turns of its own: the others
    # would wait for its starts.
    names = sorted(calm.servers.keys() - {"identity"})
    together = max(1, KILLS // 4)
    turns = [(name,) for _ in range(KILLS - together) for name in draw.sample(names, len(names))]
    turns += [tuple(names)] * together
    draw.shuffle(turns)
    killed: list[tuple[str, ...]] = []

    def kill(turns: list[tuple[str, ...]], draw: random.Random) -> None:
        for names in turns:
            with calm.of(*names):
                killed.append(names)
                time.sleep(draw.uniform(0.5, 3))
            time.sleep(draw.uniform(0.5, 2))

    library, letters = Library(), Correspondence(calm.stack)
    letters.begin()
    decided = threading.Event()
    with ExitStack() as leaving, ThreadPoolExecutor(5) as pool:
        leaving.callback(decided.set)
        carol = leaving.enter_context(calm.stack.as_user("carol"))
        killing = pool.submit(kill, turns, random.Random(seed))
        killing_keycloak = pool.submit(kill, [("identity",)] * KEYCLOAK_KILLS, random.Random(seed))
        approving = pool.submit(approve_all, calm.stack, {order.reference for order in orders}, decided)
        reading = pool.submit(library.use, calm.stack, RUNS, decided)
        writing = pool.submit(letters.go_on, decided)
        run_ids: list[str] = []
        for order in orders:
            # Spread over the time of the killing.
            until(lambda: killing.done() or len(killed) * RUNS >= len(run_ids) * len(turns), PATIENCE, "the next kill")
            run_ids.append(start(alice, order))
        killing.result(PATIENCE)
        killing_keycloak.result(PATIENCE)
        until(lambda: all(ended(alice, run_id) for run_id in run_ids), PATIENCE, f"all runs end; killed: {killed}")
        decided.set()
        approving.result(60)
        reading.result(60)
        writing.result(200)
        assert len(set(run_ids)) == RUNS
        for run_id, order in zip(run_ids, orders, strict=True):
            check_run(alice, ledger, run_id, order)
        for run_id in run_ids:
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))), seconds=120)
        library.check(alice, 120)
        assert library.words, "nothing was ingested while servers were killed"
        assert library.answered, "no search was answered"
        assert letters.messages, "nothing was written while servers were killed"
        letters.check()
        listed = persistent(lambda: [run.run_id for run in alice.runs.list(agent="fault-desk")])
        assert len(listed) == len(set(listed))
        assert set(run_ids) <= set(listed)
    expected = dict.fromkeys(names, KILLS) | ({"identity": KEYCLOAK_KILLS} if KEYCLOAK_KILLS else {})
    assert {name: sum(name in one for one in killed) for name in calm.servers} == expected
    aftermath.check()
