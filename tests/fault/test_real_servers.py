"""The stack on real servers: RabbitMQ as the bus and Redis as the cache, both from Debian."""

import asyncio
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import aio_pika
import httpx
import pytest
from fault_testing.desk import Order, check_evidence, check_run, ended, open_desk, start, until
from fault_testing.ledger import Ledger
from fault_testing.processes import freeze, kill, metric, ops_url, running
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.stack import SLIPWAY, Stack

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

WORKERS = ("worker-1", "worker-2")
WAKE_UPS = "slipway.run.wakeup.workers"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One after the other, the stacks of this module go on from the same data."""
    return tmp_path_factory.mktemp("real") / "data"


@pytest.fixture(scope="module")
def servers_file(rabbitmq_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("servers") / "servers.yaml"
    file.write_text(f"redis: {redis_url}\nbus: {rabbitmq_url}\n")
    return file


@pytest.fixture(scope="module")
def real_stack(
    servers_file: Path, data_dir: Path, ledger: Ledger, start_stack: Callable[..., Stack]
) -> Iterator[Stack]:
    stack = start_stack(data_dir, "--servers", str(servers_file), "--allow-http", ledger.address).ready()
    open_desk(stack, ledger)
    yield stack
    stack.stop()


def purge(url: str, queue: str, expected: int) -> None:
    """Throws away what waits in a queue, until that was as much as expected."""

    async def empty() -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            waiting = await channel.get_queue(queue)
            thrown_away = 0
            async with asyncio.timeout(20):
                while thrown_away < expected:
                    thrown_away += int((await waiting.purge()).message_count or 0)
                    await asyncio.sleep(0.02)

    asyncio.run(empty())


def degraded_by(stack: Stack, process: str) -> list[str]:
    """What a process that is ready says that it misses."""
    child = running(stack, process)
    assert child is not None
    return list(httpx.get(ops_url(child, "readyz"), timeout=10).raise_for_status().json()["degraded"])


def test_a_postgresql_without_pgvector_is_refused(debian_postgres_url: str, tmp_path: Path) -> None:
    if list(Path("/usr/share/postgresql").glob("*/extension/vector.control")):
        pytest.skip("Debian's PostgreSQL has pgvector here")
    file = tmp_path / "servers.yaml"
    file.write_text(f"postgres: {debian_postgres_url}\n")
    done = subprocess.run(
        [SLIPWAY, "up", "--data-dir", tmp_path / "data", "--port", "1", "--servers", file],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(
        r"^ *postgres: 127\.0\.0\.1:\d+ has no pgvector: install its extension `vector` there \(Debian: [\w-]+\)$",
        done.stderr,
        re.MULTILINE,
    )


def test_the_tour_is_the_same_on_rabbitmq_and_redis(
    start_stack: Callable[..., Stack], servers_file: Path, data_dir: Path
) -> None:
    stack = start_stack(data_dir, "--servers", str(servers_file), "--tour")
    stack.wait_for(r"tour: (ok|failed)", seconds=150)
    assert stack.process.wait(60) == 0
    said = "\n".join(stack.lines)
    assert re.search(r"^tour: ok \(run_\w+, \d+ steps, \d+ events verified, \$0\.\d+\)$", said, re.MULTILINE)
    assert re.search(r"killed worker-\d .* with SIGKILL", said)
    # They were not started beside the real ones.
    assert not re.search(r"\bvalkey\b", said)


def test_runs_whose_wake_ups_are_purged_go_on(real_stack: Stack, ledger: Ledger, rabbitmq_url: str) -> None:
    orders = [Order(number, f"purged-{secrets.token_hex(4)}") for number in range(4)]

    def published() -> float:
        return metric(real_stack, "orchestrator", "slipway_outbox_published_total", topic="run.wakeup")

    with real_stack.as_user("alice") as alice:
        before = published()
        for name in WORKERS:
            freeze(real_stack.pid(name))
        runs = {start(alice, order): order for order in orders}
        until(lambda: published() == before + len(runs), 30, "all wake-ups are in the broker's keeping")
        # What a dead worker had taken goes back to the queue; its successor needs seconds to start.
        heard = len(real_stack.lines)
        for name in WORKERS:
            assert kill(real_stack, name)
        purge(rabbitmq_url, WAKE_UPS, len(runs))
        for name in WORKERS:
            assert not any(f"ready   {name} " in line for line in real_stack.lines[heard:]), "purged too late"
        for run_id, order in runs.items():
            until(lambda run_id=run_id: ended(alice, run_id), 60, "a worker finds the run")
            check_run(alice, ledger, run_id, order)


def test_runs_go_on_without_the_broker_and_their_evidence_becomes_complete_with_it(
    real_stack: Stack, ledger: Ledger, rabbitmq_server: RabbitServer
) -> None:
    held = Order(21, f"broker-held-{secrets.token_hex(4)}")
    others = [Order(number, f"broker-{secrets.token_hex(4)}") for number in range(30, 34)]
    ledger.hold(held.reference)
    with real_stack.as_user("alice") as alice, real_stack.as_user("carol") as carol:
        runs = {start(alice, held): held}
        ledger.wait_for_request(held.reference)
        rabbitmq_server.stop(crash=True)
        try:
            # One is in the middle of a step; others begin while there is no broker.
            runs |= {start(alice, order): order for order in others}
            for run_id in list(runs)[1:]:
                until(lambda run_id=run_id: ended(alice, run_id), 90, "runs end without a broker")
            for process in ("gateway", "router", "orchestrator", "memory", "tools", "audit", *WORKERS):
                until(lambda name=process: degraded_by(real_stack, name) == ["bus"], 30, f"{process} names the bus")
            ledger.release(held.reference)
            until(lambda: ended(alice, next(iter(runs))), 60, "the run in the middle of a step ends, too")
            until(
                lambda: metric(real_stack, "tools", "slipway_outbox_backlog") >= 2 * len(others) + 1,
                30,
                "the records of the calls wait for the broker, and the metrics say so",
            )
        finally:
            rabbitmq_server.start_if_stopped()
        for run_id, order in runs.items():
            check_run(alice, ledger, run_id, order)
            check_evidence(carol, run_id, len(list(alice.runs.events(run_id))), seconds=90)
