"""Every server that the stack uses is away, by itself and with others, under load: docs/faults.md, row by row.

`SLIPWAY_FAULT_KILLS=20 SLIPWAY_FAULT_RUNS=200` kills every server twenty times under two hundred runs.
"""

import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import pytest
from fault_testing.desk import (
    Order,
    approve_all,
    check_evidence,
    check_run,
    ended,
    open_desk,
    persistent,
    start,
    until,
)
from fault_testing.ledger import Ledger
from fault_testing.processes import ops_url, running
from slipway_cli import session
from slipway_client import Client
from slipway_testkit.servers.postgres import embedded_postgres
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.servers.versitygw import S3Server
from slipway_testkit.stack import Stack

KILLS = int(os.environ.get("SLIPWAY_FAULT_KILLS", "2"))
RUNS = int(os.environ.get("SLIPWAY_FAULT_RUNS", "12"))
# Of a busy machine: a kill takes its server's time to start again, a run a few seconds of two workers.
PATIENCE = 120 + 60 * KILLS + 3 * RUNS

pytestmark = [pytest.mark.servers, pytest.mark.timeout(PATIENCE * 2)]

SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
PROCESSES = (*SERVICES, "worker-1", "worker-2")
USES = {
    "postgres": PROCESSES,
    "redis": ("gateway", "router", "memory"),
    "bus": PROCESSES,
    "objects": ("memory",),
}
"""Which processes say that they miss a server."""


class Server(Protocol):
    """A server that can be killed and started again."""

    def stop(self, *, crash: bool = False) -> None: ...
    def start_if_stopped(self) -> None: ...


@dataclass(frozen=True)
class Outages:
    """A stack, and the servers below it by name."""

    stack: Stack
    servers: dict[str, Server]

    @contextmanager
    def of(self, *names: str) -> Generator[None]:
        """Inside, these servers are dead."""
        for name in names:
            self.servers[name].stop(crash=True)
        try:
            yield
        finally:
            self.bring_back()

    def bring_back(self) -> None:
        """Starts what is dead, all at once."""
        with ThreadPoolExecutor(len(self.servers)) as pool:
            list(pool.map(lambda server: server.start_if_stopped(), self.servers.values()))

    def says(self, process: str) -> tuple[int, dict[str, Any]]:
        """Status and content of a process's /readyz."""
        child = running(self.stack, process)
        assert child is not None, f"{process} died"
        answer = httpx.get(ops_url(child, "readyz"), timeout=10)
        return answer.status_code, answer.json()

    def named(self, server: str, where: str) -> bool:
        """Whether every process that uses the server names it in this part of /readyz, with its status."""
        for process in USES[server]:
            status, said = self.says(process)
            if server not in said[where] or status != (503 if where == "missing" else 200):
                return False
        return True

    def alive(self) -> bool:
        """Whether every process says that it lives."""
        children = [running(self.stack, process) for process in PROCESSES]
        return all(child and httpx.get(ops_url(child, "livez"), timeout=10).is_success for child in children)

    def well(self) -> bool:
        """Whether nobody misses anything."""
        return all(
            self.says(process) == (200, {"status": "ok", "missing": {}, "degraded": {}}) for process in PROCESSES
        )


@pytest.fixture(scope="module")
def outages(
    rabbitmq_server: RabbitServer,
    redis_server: RedisServer,
    s3_server: S3Server,
    ledger: Ledger,
    start_stack: Callable[..., Stack],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outages]:
    with embedded_postgres(tcp=True) as postgres:
        folder = tmp_path_factory.mktemp("outages")
        file = folder / "servers.yaml"
        file.write_text(
            f"postgres: {postgres.url()}\n"
            f"redis: {redis_server.url.removesuffix('/0')}/7\n"
            f"bus: {rabbitmq_server.create_vhost()}\n"
            f"objects: {s3_server.url(s3_server.create_bucket())}\n"
        )
        stack = start_stack(folder / "data", "--servers", str(file), "--allow-http", ledger.address).ready()
        open_desk(stack, ledger)
        servers: dict[str, Server] = {
            "postgres": postgres, "redis": redis_server, "bus": rabbitmq_server, "objects": s3_server
        }  # fmt: skip
        outages = Outages(stack, servers)
        yield outages
        outages.bring_back()
        stack.stop()


@pytest.fixture
def calm(outages: Outages) -> Iterator[Outages]:
    """Everything is there before the test, and after it."""
    until(outages.well, 60, "everything is there")
    yield outages
    outages.bring_back()


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
    calm: Outages, alice: Client, ledger: Ledger
) -> None:
    seed = int(os.environ.get("SLIPWAY_FAULT_SEED") or secrets.randbits(32))
    print(f"seed {seed}: set SLIPWAY_FAULT_SEED to it for the same servers in the same order")
    draw = random.Random(seed)
    orders = [Order(draw.randrange(10_000), f"outages-{seed}-{n}", gated=n % 3 == 0) for n in range(RUNS)]
    # Every server is killed as often; one time in four all of them at once.
    together = max(1, KILLS // 4)
    turns: list[tuple[str, ...]] = [
        (name,) for _ in range(KILLS - together) for name in draw.sample(sorted(calm.servers), 4)
    ]
    turns += [tuple(calm.servers)] * together
    draw.shuffle(turns)
    killed: list[tuple[str, ...]] = []

    def kill() -> None:
        for names in turns:
            with calm.of(*names):
                killed.append(names)
                time.sleep(draw.uniform(0.5, 3))
            time.sleep(draw.uniform(0.5, 2))

    decided = threading.Event()
    with ExitStack() as leaving, ThreadPoolExecutor(2) as pool:
        leaving.callback(decided.set)
        carol = leaving.enter_context(calm.stack.as_user("carol"))
        killing = pool.submit(kill)
        approving = pool.submit(approve_all, calm.stack, {order.reference for order in orders}, decided)
        run_ids: list[str] = []
        for order in orders:
            # Spread over the time of the killing.
            until(lambda: killing.done() or len(killed) * RUNS >= len(run_ids) * len(turns), PATIENCE, "the next kill")
            run_ids.append(start(alice, order))
        killing.result(PATIENCE)
        until(lambda: all(ended(alice, run_id) for run_id in run_ids), PATIENCE, f"all runs end; killed: {killed}")
        decided.set()
        approving.result(60)
        assert len(set(run_ids)) == RUNS
        for run_id, order in zip(run_ids, orders, strict=True):
            check_run(alice, ledger, run_id, order)
        for run_id in run_ids:
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))), seconds=120)
        listed = persistent(lambda: [run.run_id for run in alice.runs.list(agent="fault-desk")])
        assert len(listed) == len(set(listed))
        assert set(run_ids) <= set(listed)
    assert {name: sum(name in names for names in killed) for name in calm.servers} == dict.fromkeys(calm.servers, KILLS)
    until(calm.well, 60, "nobody misses anything any more")
