"""Repeated requests, repeated messages, and how long they are remembered."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from slipway_chassis.caller import Caller
from slipway_chassis.errors import ErrorKind
from slipway_chassis.idempotency import IdempotencyKeyReused, once
from slipway_chassis.inbox import first_time
from slipway_chassis.postgres import transaction
from slipway_chassis.retention import prune

Counter = Callable[[], Awaitable[bytes]]


class Work:
    """Counts how often it was done."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> bytes:
        self.times += 1
        await asyncio.sleep(0)
        return b"answer %d" % self.times


@pytest.fixture
def work() -> Work:
    return Work()


async def ask(
    pool: asyncpg.Pool, caller: Caller, work: Counter, request_id: str = "r1", fingerprint: bytes = b"f"
) -> bytes:
    async with transaction(pool) as conn:
        return await once(conn, caller, "Agents.Start", request_id, fingerprint, work)


async def test_a_repeated_request_gets_the_first_answer(
    pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work
) -> None:
    assert [await ask(pool, caller(), work), await ask(pool, caller(), work)] == [b"answer 1", b"answer 1"]
    assert work.times == 1


async def test_concurrent_duplicates_wait_for_the_first(
    pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work
) -> None:
    answers = await asyncio.gather(*(ask(pool, caller(), work) for _ in range(8)))
    assert set(answers) == {b"answer 1"}
    assert work.times == 1


async def test_a_request_id_used_for_something_else_is_refused(
    pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work
) -> None:
    await ask(pool, caller(), work)
    with pytest.raises(IdempotencyKeyReused) as refused:
        await ask(pool, caller(), work, fingerprint=b"g")
    error = refused.value
    assert (error.kind, error.reason, error.field) == (
        ErrorKind.INVALID_ARGUMENT,
        "IDEMPOTENCY_KEY_REUSED",
        "request_id",
    )


async def test_request_ids_of_other_tenants_and_subjects_do_not_meet(
    pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work
) -> None:
    await ask(pool, caller(), work)
    assert await ask(pool, caller(tenant="globex"), work) == b"answer 2"
    assert await ask(pool, caller(subject="bob"), work) == b"answer 3"


async def test_without_a_request_id_every_request_is_new(
    pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work
) -> None:
    await ask(pool, caller(), work, request_id="")
    assert await ask(pool, caller(), work, request_id="") == b"answer 2"


async def test_a_failed_request_can_be_repeated(pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work) -> None:
    async def fails() -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ask(pool, caller(), fails)
    assert await ask(pool, caller(), work) == b"answer 1"


async def test_a_message_is_new_once_per_consumer(pool: asyncpg.Pool) -> None:
    async with transaction(pool) as conn:
        assert await first_time(conn, "audit", "m1")
        assert not await first_time(conn, "audit", "m1")
        assert await first_time(conn, "memory", "m1")
    assert not await first_time(pool, "audit", "m1")


async def test_a_message_whose_handler_failed_is_new_again(pool: asyncpg.Pool) -> None:
    async def handler() -> None:
        async with transaction(pool) as conn:
            assert await first_time(conn, "audit", "m1")
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await handler()
    assert await first_time(pool, "audit", "m1")


async def test_what_is_older_than_its_time_is_forgotten_and_nothing_else(
    pool: asyncpg.Pool, caller: Callable[..., Caller], work: Work
) -> None:
    await ask(pool, caller(), work, "old")
    await first_time(pool, "audit", "old")
    insert = (
        "INSERT INTO effect (tenant, key, subject, fingerprint, epoch, attempt, state, execution, owner)"
        " VALUES ('acme', $1, 'alice', '', 1, 1, $2, gen_random_uuid(), gen_random_uuid())"
    )
    await pool.execute(insert, "old", "DONE")
    await pool.execute(insert, "in doubt", "RUNNING")
    for table, age in (("idempotency", "25 hours"), ("inbox", "31 days"), ("effect", "31 days")):
        await pool.execute(f"UPDATE {table} SET create_time = now() - $1::text::interval", age)
    await ask(pool, caller(), work, "new")
    await first_time(pool, "audit", "new")
    await pool.execute(insert, "new", "DONE")
    assert await prune(pool) == {"idempotency": 1, "inbox": 1, "effect": 1}
    assert await pool.fetchval("SELECT array_agg(request_id) FROM idempotency") == ["new"]
    assert await pool.fetchval("SELECT array_agg(message_id) FROM inbox") == ["new"]
    assert await pool.fetchval("SELECT array_agg(key ORDER BY key) FROM effect") == ["in doubt", "new"]


async def test_pruning_passes_over_tables_that_a_service_does_not_have(pool: asyncpg.Pool) -> None:
    await pool.execute("DROP TABLE effect")
    assert await prune(pool) == {"idempotency": 0, "inbox": 0}
