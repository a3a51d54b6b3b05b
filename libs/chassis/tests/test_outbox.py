"""The transactional outbox on real brokers: what committed goes out, whatever is restarted meanwhile."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from slipway_chassis import telemetry
from slipway_chassis.bus import Bus, Message, MessageTooLarge, open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.errors import Unavailable
from slipway_chassis.outbox import Outbox
from slipway_chassis.outgoing import Outgoing
from slipway_chassis.postgres import migrate, open_pool, transaction
from slipway_chassis.receipts import Receipts
from slipway_testkit.servers.postgres import embedded_postgres

Eventually = Callable[..., Awaitable[Any]]


class Taken:
    """A bus in memory that takes messages, or refuses them as told: only for what real brokers cannot be made to do."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refuse: Callable[[Message], Exception | None] = lambda _: None

    async def publish_all(self, messages: Sequence[Message]) -> list[Exception | None]:
        outcomes = [self.refuse(message) for message in messages]
        self.messages += [message for message, outcome in zip(messages, outcomes, strict=True) if outcome is None]
        return outcomes

    @contextlib.asynccontextmanager
    async def subscribe(self, _channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def nothing() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        async with contextlib.aclosing(nothing()) as messages:
            yield messages


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def outbox(pool: asyncpg.Pool, keys: SubjectKeys, taken: Taken) -> Outbox:
    return Outbox(pool, taken, keys)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def relaying(outbox: Outbox) -> AsyncIterator[None]:
    task = asyncio.create_task(outbox.relay())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def waiting(pool: asyncpg.Pool) -> int:
    return await pool.fetchval("SELECT count(*) FROM outbox")


async def listening(pool: asyncpg.Pool) -> bool:
    return await pool.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )


async def test_what_committed_is_published_and_what_rolled_back_is_not(
    pool: asyncpg.Pool, keys: SubjectKeys, bus_url: str, eventually: Eventually
) -> None:
    bus = await open_bus(bus_url, namespace=f"t{uuid.uuid4().hex[:8]}")
    got: list[Message] = []

    async def handler(message: Message, _: int) -> None:
        got.append(message)

    outbox = Outbox(pool, bus, keys)

    async def rolled_back() -> None:
        async with transaction(pool) as conn:
            await outbox.add(conn, "run.wakeup", b"lost", message_id="m0", tenant="acme")
            raise ZeroDivisionError

    consumer = asyncio.create_task(bus.consume("run.wakeup", "workers", handler))
    async with relaying(outbox):
        with pytest.raises(ZeroDivisionError):
            await rolled_back()
        async with transaction(pool) as conn:
            await outbox.add(conn, "run.wakeup", b"{}", message_id="m1", tenant="acme", headers={"kind": "x"})
        await eventually(lambda: got)
        await eventually(lambda: _none_waits(pool))
    consumer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await consumer
    await bus.close()
    assert [(m.id, m.topic, m.body, m.tenant, m.headers["kind"]) for m in got] == [
        ("m1", "run.wakeup", b"{}", "acme", "x")
    ]


async def _none_waits(pool: asyncpg.Pool) -> bool:
    return await waiting(pool) == 0


async def test_a_message_goes_out_at_once_and_not_with_the_next_sweep(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    async with relaying(outbox):
        await eventually(lambda: listening(pool))
        async with transaction(pool) as conn:
            await outbox.add(conn, "t", b"1", message_id="m1", tenant="acme")
        await eventually(lambda: len(taken.messages) == 1, timeout=1)
        # Also from a transaction that the chassis did not open.
        async with pool.acquire() as conn, conn.transaction():
            await outbox.add(conn, "t", b"2", message_id="m2", tenant="acme")
        await eventually(lambda: len(taken.messages) == 2, timeout=1)


async def test_a_process_without_a_relay_wakes_that_of_another(
    pool: asyncpg.Pool, keys: SubjectKeys, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    elsewhere = Outbox(pool, taken, keys)  # type: ignore[arg-type]
    async with relaying(outbox):
        await eventually(lambda: listening(pool))
        async with transaction(pool) as conn:
            await elsewhere.add(conn, "t", b"1", message_id="m1", tenant="acme")
        await eventually(lambda: taken.messages, timeout=1)


async def test_a_relay_that_starts_finds_what_others_left_behind(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    async with transaction(pool) as conn:
        for n in range(250):
            await outbox.add(conn, "t", b"", message_id=f"m{n}", tenant="acme", ordering_key="run_1")
    async with relaying(outbox):
        await eventually(lambda: _none_waits(pool))
    assert [m.id for m in taken.messages] == [f"m{n}" for n in range(250)]


async def test_two_relays_share_the_work_and_neither_doubles_it(
    pool: asyncpg.Pool, keys: SubjectKeys, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    async with transaction(pool) as conn:
        for n in range(500):
            await outbox.add(conn, "t", b"", message_id=f"m{n}", tenant="acme")
    async with relaying(outbox), relaying(Outbox(pool, taken, keys)):  # type: ignore[arg-type]
        await eventually(lambda: _none_waits(pool))
    assert sorted(m.id for m in taken.messages) == sorted(f"m{n}" for n in range(500))


async def test_a_message_that_was_not_confirmed_is_published_again_and_the_others_are_not(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    failures = iter([Unavailable("down"), Unavailable("down")])
    taken.refuse = lambda message: next(failures, None) if message.id == "a1" else None
    async with transaction(pool) as conn:
        for n in range(4):
            await outbox.add(conn, "t", b"", message_id=f"a{n}", tenant="acme", ordering_key="a")
    async with relaying(outbox):
        await eventually(lambda: _none_waits(pool))
    assert [m.id for m in taken.messages] == ["a0", "a2", "a3", "a1"]


async def test_a_message_that_the_bus_refuses_does_not_stop_the_others(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    taken.refuse = lambda message: MessageTooLarge("too large") if message.id == "m0" else None
    async with transaction(pool) as conn:
        for n in range(3):
            await outbox.add(conn, "t", b"", message_id=f"m{n}", tenant="acme")
    async with relaying(outbox):
        await eventually(lambda: len(taken.messages) == 2)

        async def postponed() -> bool:
            row = await pool.fetchrow("SELECT attempts, next_attempt_time > now() AS later FROM outbox")
            return row["attempts"] == 1 and row["later"]

        await eventually(postponed)
        await eventually(lambda: telemetry.registry.get_sample_value("slipway_outbox_backlog") == 1)
    assert [m.id for m in taken.messages] == ["m1", "m2"]


async def test_many_messages_are_added_in_one_statement_each_sealed_for_its_person(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    people = ["alice", "bob", ""]
    messages = [
        Outgoing("audit.events", f"body {n}".encode(), f"m{n}", "acme", people[n % 3], {"n": str(n)}, "run_1", False)
        for n in range(6)
    ]
    async with transaction(pool) as conn:
        await outbox.add_all(conn, messages)
        await outbox.add_all(conn, [])
    stored = await pool.fetch("SELECT message_id, subject, ordering_key, receipt, body FROM outbox ORDER BY id")
    assert [(row["message_id"], row["subject"]) for row in stored] == [(f"m{n}", people[n % 3]) for n in range(6)]
    assert {(row["ordering_key"], row["receipt"]) for row in stored} == {("run_1", False)}
    assert [b"body" in row["body"] for row in stored] == [False, False, True] * 2
    async with relaying(outbox):
        await eventually(lambda: len(taken.messages) == 6)
    assert [(one.id, one.body, one.headers["n"]) for one in taken.messages] == [
        (f"m{n}", f"body {n}".encode(), str(n)) for n in range(6)
    ]


async def test_bodies_of_a_person_lie_encrypted_and_arrive_in_the_clear(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    async with transaction(pool) as conn:
        await outbox.add(conn, "t", b"alice's words", message_id="m1", tenant="acme", subject="alice")
    assert b"words" not in await pool.fetchval("SELECT body FROM outbox")
    async with relaying(outbox):
        await eventually(lambda: taken.messages)
    assert taken.messages[0].body == b"alice's words"


async def test_the_message_of_an_erased_person_goes_out_empty_but_with_its_headers(
    pool: asyncpg.Pool, keys: SubjectKeys, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    async with transaction(pool) as conn:
        await outbox.add(
            conn, "t", b"words", message_id="m1", tenant="acme", subject="alice", headers={"commitment": "c0"}
        )
    await keys.erase(pool, "acme", "alice")
    async with relaying(outbox):
        await eventually(lambda: taken.messages)
    message = taken.messages[0]
    assert json.loads(message.body) == {"erased": True, "id": "m1"}
    assert (message.headers["erased"], message.headers["commitment"]) == ("true", "c0")


async def test_a_message_belongs_to_the_trace_of_its_change(
    pool: asyncpg.Pool, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    with telemetry.span("change"):
        trace_id = telemetry.current_trace_id()
        async with transaction(pool) as conn:
            await outbox.add(conn, "t", b"", message_id="m1", tenant="acme")
    async with relaying(outbox):
        await eventually(lambda: taken.messages)
    assert taken.messages[0].headers["traceparent"].split("-")[1] == trace_id


async def test_nothing_is_lost_while_the_broker_is_restarted(
    pool: asyncpg.Pool, keys: SubjectKeys, bus_server: Any, eventually: Eventually, request: pytest.FixtureRequest
) -> None:
    bus: Bus = await open_bus(bus_server.url, namespace=f"t{uuid.uuid4().hex[:8]}")
    got: set[str] = set()

    async def handler(message: Message, _: int) -> None:
        got.add(message.id)

    outbox = Outbox(pool, bus, keys)
    consumer = asyncio.create_task(bus.consume("t", "g", handler))
    request.addfinalizer(bus_server.start_if_stopped)
    async with relaying(outbox):
        async with transaction(pool) as conn:
            await outbox.add(conn, "t", b"", message_id="before", tenant="acme")
        await eventually(lambda: got == {"before"})
        bus_server.stop()
        async with transaction(pool) as conn:
            await outbox.add(conn, "t", b"", message_id="while", tenant="acme")
        bus_server.start_if_stopped()
        async with transaction(pool) as conn:
            await outbox.add(conn, "t", b"", message_id="after", tenant="acme")
        await eventually(lambda: got == {"before", "while", "after"}, timeout=60)
        await eventually(lambda: _none_waits(pool), timeout=30)
    consumer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await consumer
    await bus.close()


async def test_the_relay_goes_on_after_postgres_was_restarted(
    taken: Taken, data_key: str, eventually: Eventually
) -> None:
    with embedded_postgres() as server:
        pool = await open_pool(server.url())
        await migrate(pool, "slipway_chassis", chassis=["outbox", "subject_keys"])
        outbox = Outbox(pool, taken, SubjectKeys(pool, data_key))  # type: ignore[arg-type]
        async with relaying(outbox):
            await eventually(lambda: listening(pool))
            server.process.kill()
            with pytest.raises(Unavailable):
                async with transaction(pool) as conn:
                    await outbox.add(conn, "t", b"", message_id="lost", tenant="acme")
            server.restart(crash=True)

            async def added() -> bool:
                try:
                    async with transaction(pool) as conn:
                        await outbox.add(conn, "t", b"", message_id="m1", tenant="acme")
                except Unavailable:
                    return False
                return True

            await eventually(added, timeout=30)
            await eventually(lambda: [m.id for m in taken.messages] == ["m1"], timeout=20)
        await pool.close()


async def test_a_relay_whose_connection_was_lost_listens_again_and_can_still_be_stopped(
    pool: asyncpg.Pool, keys: SubjectKeys, outbox: Outbox, taken: Taken, eventually: Eventually
) -> None:
    elsewhere = Outbox(pool, taken, keys)  # type: ignore[arg-type]
    terminate = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    async with asyncio.timeout(20), relaying(outbox):
        await eventually(lambda: listening(pool))
        assert await pool.fetchval(terminate) == 1
        await eventually(lambda: listening(pool))
        async with transaction(pool) as conn:
            await elsewhere.add(conn, "t", b"1", message_id="m1", tenant="acme")
        await eventually(lambda: taken.messages, timeout=2)
        assert await pool.fetchval(terminate) == 1


async def test_a_message_with_a_receipt_stays_until_its_consumer_has_it(
    pool: asyncpg.Pool, keys: SubjectKeys, bus_url: str, eventually: Eventually
) -> None:
    bus = await open_bus(bus_url, namespace=f"t{uuid.uuid4().hex[:8]}")
    outbox, receipts = Outbox(pool, bus, keys, receipt_wait=0.2), Receipts(bus)
    deliveries: list[str] = []

    async def handler(message: Message, _: int) -> None:
        deliveries.append(message.id)
        if len(deliveries) > 1:  # the first is as good as purged: nobody says that they have it
            receipts.give([message.id])

    consumer = asyncio.create_task(bus.consume("t", "g", handler))
    telling = asyncio.create_task(receipts.run())
    async with relaying(outbox):
        async with transaction(pool) as conn:
            await outbox.add(conn, "t", b"1", message_id="m1", tenant="acme", receipt=True)
        await eventually(lambda: len(deliveries) >= 2, timeout=30)
        await eventually(lambda: _none_waits(pool), timeout=30)
    assert set(deliveries) == {"m1"}
    for task in (consumer, telling):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await bus.close()
