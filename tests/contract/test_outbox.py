"""Outbox, bus and inbox together: nothing that committed is lost, and nothing is done twice, whatever is killed."""

import asyncio
import base64
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from slipway_chassis.bus import Bus, Message
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.inbox import first_time
from slipway_chassis.outbox import Outbox
from slipway_chassis.postgres import migrate, open_pool, transaction
from slipway_testkit.servers.rabbitmq import RabbitServer

TOPIC, GROUP = "audit.events", "audit"
DATA_KEY = base64.b64encode(secrets.token_bytes(32)).decode()

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    opened = await open_pool(database_url)
    await migrate(opened, "slipway_chassis", chassis=["outbox", "inbox", "subject_keys"])
    await opened.execute("CREATE TABLE done (message_id text, body bytea)")
    yield opened
    await opened.close()


@dataclass
class Ledger:
    """An idempotent consumer: what it does and the mark that it did it commit together."""

    pool: asyncpg.Pool
    deliveries: int = 0

    async def __call__(self, message: Message, deliveries: int) -> None:
        async with transaction(self.pool) as conn:
            if await first_time(conn, GROUP, message.id):
                await conn.execute("INSERT INTO done VALUES ($1, $2)", message.id, message.body)
        self.deliveries += 1

    async def done(self) -> list[tuple[str, bytes]]:
        return [tuple(row) for row in await self.pool.fetch("SELECT message_id, body FROM done ORDER BY message_id")]


async def add(pool: asyncpg.Pool, outbox: Outbox, numbers: range, ordering_key: str = "") -> list[tuple[str, bytes]]:
    """Commits one message per transaction; every second one is about a person, so encrypted in the outbox."""
    added = []
    for number in numbers:
        message_id, body = f"aev_{number:04}", f"event {number}".encode()
        async with transaction(pool) as conn:
            subject = "alice" if number % 2 else ""
            await outbox.add(
                conn, TOPIC, body, message_id=message_id, tenant="acme", subject=subject, ordering_key=ordering_key
            )
        added.append((message_id, body))
    return added


async def test_nothing_is_lost_or_done_twice_when_the_broker_is_killed_while_the_relay_works(
    pool, new_bus, bus_server, namespace, consumers, eventually: Callable
) -> None:
    bus: Bus = await new_bus()
    outbox, ledger = Outbox(pool, bus, SubjectKeys(pool, DATA_KEY)), Ledger(pool)
    consumers.start(bus.consume(TOPIC, GROUP, ledger))
    consumers.start(outbox.relay())
    added = await add(pool, outbox, range(50))
    await eventually(lambda: ledger.deliveries > 0)
    if isinstance(bus_server, RabbitServer):
        queues = (f"{namespace}.{TOPIC}.{GROUP}", f"{namespace}.{TOPIC}#unclaimed")
        await eventually(lambda: all(bus_server.would_recover(queue) for queue in queues))

    killing = asyncio.create_task(asyncio.to_thread(bus_server.stop, crash=True))
    try:
        added += await add(pool, outbox, range(50, 150))
        await killing
        added += await add(pool, outbox, range(150, 200))
        assert await pool.fetchval("SELECT count(*) FROM outbox") >= 50
    finally:
        await killing
        await asyncio.to_thread(bus_server.start)
    added += await add(pool, outbox, range(200, 250))

    await eventually(ledger_is_full(ledger, added), timeout=90)
    assert await ledger.done() == added
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 0


async def test_nothing_is_lost_or_done_twice_when_relays_are_killed(
    pool, new_bus, bus_url, database_url, namespace, consumers, eventually: Callable
) -> None:
    bus: Bus = await new_bus()
    outbox, ledger = Outbox(pool, bus, SubjectKeys(pool, DATA_KEY)), Ledger(pool)
    consumers.start(bus.consume(TOPIC, GROUP, ledger, concurrency=2))
    # One ordering key: published one after the other, so that a relay is killed in the middle and not after the end.
    added = await add(pool, outbox, range(800), "run_1")
    program = str(Path(__file__).with_name("relay_process.py"))
    for _ in range(2):
        before = ledger.deliveries
        relay = await asyncio.create_subprocess_exec(
            sys.executable, program, database_url, bus_url, namespace, DATA_KEY, stdout=asyncio.subprocess.DEVNULL
        )
        try:
            await eventually(lambda before=before: ledger.deliveries > before, timeout=60, interval=0)
        finally:
            relay.kill()
            await relay.wait()
        assert await pool.fetchval("SELECT count(*) FROM outbox") > 0
    consumers.start(outbox.relay())
    await eventually(ledger_is_full(ledger, added), timeout=60)
    assert await ledger.done() == added


def ledger_is_full(ledger: Ledger, added: list[tuple[str, bytes]]) -> Callable:
    async def full() -> bool:
        return len(await ledger.done()) >= len(added) and not await ledger.pool.fetchval("SELECT count(*) FROM outbox")

    return full
