"""The effect ledger: an effect happens once, whoever asks, how often, and whoever dies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from slipway.effects.v1 import effects_pb2
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectErased, SubjectKeys
from slipway_chassis.effect_store import EffectKeyReused, StaleEpoch
from slipway_chassis.effects import EffectCancelled, EffectKey, EffectLedger, EffectUncertain
from slipway_chassis.errors import ErrorKind, FailedPrecondition, SlipwayError, Unavailable
from slipway_chassis.postgres import open_pool

Eventually = Callable[..., Awaitable[object]]


class Refused(FailedPrecondition):
    """What an action may fail with."""

    reason = "REFUSED"


class World:
    """What actions change: counts, and a gate that holds them back."""

    def __init__(self) -> None:
        self.times = 0
        self.finished = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def act(self) -> bytes:
        self.times += 1
        answer = b"answer %d" % self.times
        await self.gate.wait()
        self.finished += 1
        if self.error is not None:
            raise self.error
        return answer


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def ledger(pool: asyncpg.Pool) -> AsyncIterator[EffectLedger]:
    made = EffectLedger(pool, heartbeat=0.05, dead_after=0.5)
    yield made
    await made.drain(5)


@pytest.fixture
async def other(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[EffectLedger]:
    """The ledger of another process on the same database."""
    async with await open_pool(database_url) as own:
        made = EffectLedger(own, heartbeat=0.05, dead_after=0.5)
        yield made
        await made.drain(5)


async def freeze(ledger: EffectLedger) -> None:
    """Stop the heartbeat, as a SIGSTOP or a SIGKILL would; its executions stay as they are."""
    assert ledger._heartbeat is not None
    ledger._heartbeat.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ledger._heartbeat


async def age(pool: asyncpg.Pool) -> None:
    """Let a long time pass since the last sign of life."""
    await pool.execute("UPDATE effect SET heartbeat = now() - interval '1 hour'")


@pytest.fixture
async def long_running_database(pool: asyncpg.Pool, eventually: Eventually) -> None:
    """The ledger trusts no silence that began before the database did: let it have run for longer than dead_after."""
    ready = "SELECT now() - pg_postmaster_start_time() > interval '0.6 s'"
    await eventually(lambda: pool.fetchval(ready))


async def state(pool: asyncpg.Pool) -> tuple[str, int, int]:
    row = await pool.fetchrow("SELECT state, epoch, attempt FROM effect")
    return row["state"], row["epoch"], row["attempt"]


async def test_an_action_without_a_key_just_runs_every_time(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], pool: asyncpg.Pool
) -> None:
    assert await ledger.perform(caller(), None, b"f", world.act, in_doubt="repeat") == b"answer 1"
    unset = effects_pb2.EffectKey()
    assert await ledger.perform(caller(), unset, b"f", world.act, in_doubt="repeat") == b"answer 2"
    assert await pool.fetchval("SELECT count(*) FROM effect") == 0


async def test_a_repeated_key_gets_the_recorded_answer_and_nothing_happens_again(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller]
) -> None:
    wire = effects_pb2.EffectKey(key="run_1/pay/1", epoch=1, attempt=1)
    first = await ledger.perform(caller(), wire, b"f", world.act, in_doubt="uncertain")
    again = await ledger.perform(caller(), wire, b"f", world.act, in_doubt="uncertain")
    later = await ledger.perform(caller(), EffectKey("run_1/pay/1", 7, 3), b"f", world.act, in_doubt="uncertain")
    assert first == again == later == b"answer 1"
    assert world.times == 1


async def test_another_process_gets_the_recorded_answer(
    ledger: EffectLedger, other: EffectLedger, world: World, caller: Callable[..., Caller]
) -> None:
    await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain")
    assert await other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="uncertain") == b"answer 1"
    assert world.times == 1


async def test_keys_of_two_tenants_do_not_meet(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller]
) -> None:
    await ledger.perform(caller(), EffectKey("k", 5), b"f", world.act, in_doubt="repeat")
    stranger = caller(tenant="globex", subject="gina")
    assert await ledger.perform(stranger, EffectKey("k", 1), b"g", world.act, in_doubt="repeat") == b"answer 2"


async def test_an_older_epoch_is_refused_even_for_a_recorded_answer(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], pool: asyncpg.Pool
) -> None:
    await ledger.perform(caller(), EffectKey("k", 3), b"f", world.act, in_doubt="repeat")
    with pytest.raises(StaleEpoch) as refused:
        await ledger.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="repeat")
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.ABORTED, "STALE_EPOCH")
    assert world.times == 1
    # A higher epoch that only read the answer raises the fence, too.
    await ledger.perform(caller(), EffectKey("k", 4), b"f", world.act, in_doubt="repeat")
    with pytest.raises(StaleEpoch):
        await ledger.perform(caller(), EffectKey("k", 3), b"f", world.act, in_doubt="repeat")
    assert await state(pool) == ("DONE", 4, 1)


async def test_a_known_key_with_another_request_is_refused(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller]
) -> None:
    await ledger.perform(caller(), EffectKey("k", 1), b"pay 10", world.act, in_doubt="repeat")
    with pytest.raises(EffectKeyReused) as refused:
        await ledger.perform(caller(), EffectKey("k", 1), b"pay 99", world.act, in_doubt="repeat")
    assert (refused.value.kind, refused.value.reason) == (ErrorKind.INVALID_ARGUMENT, "EFFECT_KEY_REUSED")
    assert world.times == 1


async def test_two_concurrent_callers_with_one_key_share_one_execution(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], eventually: Eventually
) -> None:
    world.gate.clear()
    calls = [
        asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain"))
        for _ in range(20)
    ]
    await eventually(lambda: world.times)
    world.gate.set()
    assert set(await asyncio.gather(*calls)) == {b"answer 1"}
    assert world.times == 1


async def test_callers_in_two_processes_share_one_execution(
    ledger: EffectLedger, other: EffectLedger, world: World, caller: Callable[..., Caller], eventually: Eventually
) -> None:
    world.gate.clear()
    first = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat"))
    await eventually(lambda: world.times)
    second = asyncio.create_task(other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="repeat"))
    # Longer than dead_after: the sign of life must keep the other process from taking over.
    await asyncio.sleep(1)
    assert not second.done()
    world.gate.set()
    assert await first == await second == b"answer 1"
    assert world.times == 1


async def test_a_caller_that_dies_does_not_take_the_answer_with_it(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], eventually: Eventually
) -> None:
    world.gate.clear()
    killed = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain"))
    await eventually(lambda: world.times)
    killed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await killed
    joined = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="uncertain"))
    world.gate.set()
    assert await joined == b"answer 1"
    assert world.times == 1


async def test_a_failed_attempt_fails_the_same_again_until_a_higher_attempt_is_declared(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], pool: asyncpg.Pool
) -> None:
    world.error = Refused("no funds", field="amount", metadata={"account": "1"}, retry_after=3)
    with pytest.raises(Refused):
        await ledger.perform(caller(), EffectKey("k", 1, 1), b"f", world.act, in_doubt="repeat")
    assert await state(pool) == ("FAILED", 1, 1)
    world.error = None
    for epoch in (1, 2):
        with pytest.raises(SlipwayError) as recorded:
            await ledger.perform(caller(), EffectKey("k", epoch, 1), b"f", world.act, in_doubt="repeat")
        error = recorded.value
        assert (error.kind, error.reason, str(error)) == (ErrorKind.FAILED_PRECONDITION, "REFUSED", "no funds")
        assert (error.field, error.metadata, error.retry_after) == ("amount", {"account": "1"}, 3)
    assert world.times == 1
    assert await ledger.perform(caller(), EffectKey("k", 2, 2), b"f", world.act, in_doubt="repeat") == b"answer 2"
    # The success is final: no attempt, whatever its number, does it again.
    assert await ledger.perform(caller(), EffectKey("k", 2, 3), b"f", world.act, in_doubt="repeat") == b"answer 2"
    assert world.times == 2


async def test_what_an_unexpected_failure_says_is_not_recorded(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller]
) -> None:
    world.error = KeyError("customer 4711")
    with pytest.raises(KeyError):
        await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat")
    with pytest.raises(SlipwayError) as recorded:
        await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat")
    assert recorded.value.kind is ErrorKind.INTERNAL
    assert "4711" not in str(recorded.value)


@pytest.mark.usefixtures("long_running_database")
async def test_an_effect_in_doubt_is_repeated_where_that_is_declared(
    ledger: EffectLedger,
    other: EffectLedger,
    world: World,
    caller: Callable[..., Caller],
    pool: asyncpg.Pool,
    eventually: Eventually,
) -> None:
    dead = World()
    dead.gate.clear()
    task = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", dead.act, in_doubt="repeat"))
    await eventually(lambda: dead.times)
    await freeze(ledger)
    await age(pool)
    assert await other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="repeat") == b"answer 1"
    assert world.times == 1
    assert await state(pool) == ("DONE", 2, 1)
    dead.gate.set()
    with pytest.raises(StaleEpoch):
        await task


@pytest.mark.usefixtures("long_running_database")
async def test_a_zombie_that_comes_back_cannot_overwrite_the_outcome_of_its_successor(
    ledger: EffectLedger,
    other: EffectLedger,
    world: World,
    caller: Callable[..., Caller],
    pool: asyncpg.Pool,
    eventually: Eventually,
) -> None:
    zombie = World()
    zombie.gate.clear()
    zombie.error = Refused("the zombie's own failure")
    woken = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", zombie.act, in_doubt="repeat"))
    await eventually(lambda: zombie.times)
    await freeze(ledger)
    await age(pool)
    world.gate.clear()
    successor = asyncio.create_task(other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="repeat"))
    await eventually(lambda: world.times)
    zombie.gate.set()
    # While the successor is still at it, the zombie's write already fails …
    with pytest.raises(StaleEpoch):
        await woken
    assert await state(pool) == ("RUNNING", 2, 1)
    world.gate.set()
    assert await successor == b"answer 1"
    # … and a new request of the zombie's epoch does, too.
    with pytest.raises(StaleEpoch):
        await ledger.perform(caller(), EffectKey("k", 1), b"f", zombie.act, in_doubt="repeat")
    assert await state(pool) == ("DONE", 2, 1)
    assert zombie.times == 1


@pytest.mark.usefixtures("long_running_database")
async def test_an_effect_in_doubt_that_must_not_be_repeated_becomes_uncertain_until_a_person_declares_a_new_attempt(
    ledger: EffectLedger,
    other: EffectLedger,
    world: World,
    caller: Callable[..., Caller],
    pool: asyncpg.Pool,
    eventually: Eventually,
) -> None:
    dead = World()
    dead.gate.clear()
    task = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", dead.act, in_doubt="uncertain"))
    await eventually(lambda: dead.times)
    await freeze(ledger)
    await age(pool)
    for _ in range(2):
        with pytest.raises(EffectUncertain) as doubt:
            await other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="uncertain")
        assert (doubt.value.kind, doubt.value.reason) == (ErrorKind.ABORTED, "EFFECT_UNCERTAIN")
    assert world.times == 0
    assert await state(pool) == ("UNCERTAIN", 2, 1)
    assert await other.perform(caller(), EffectKey("k", 2, 2), b"f", world.act, in_doubt="uncertain") == b"answer 1"
    dead.gate.set()
    with pytest.raises(StaleEpoch):
        await task


@pytest.mark.usefixtures("long_running_database")
async def test_an_uncertain_effect_is_settled_by_the_truth_when_its_executor_comes_back(
    ledger: EffectLedger,
    other: EffectLedger,
    world: World,
    caller: Callable[..., Caller],
    pool: asyncpg.Pool,
    eventually: Eventually,
) -> None:
    frozen = World()
    frozen.gate.clear()
    task = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", frozen.act, in_doubt="uncertain"))
    await eventually(lambda: frozen.times)
    await freeze(ledger)
    await age(pool)
    with pytest.raises(EffectUncertain):
        await other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="uncertain")
    frozen.gate.set()
    assert await task == b"answer 1"
    # Even the new attempt that a person has allowed meanwhile does not pay twice.
    assert await other.perform(caller(), EffectKey("k", 2, 2), b"f", world.act, in_doubt="uncertain") == b"answer 1"
    assert world.times == 0


async def test_an_action_can_say_itself_that_its_effect_is_uncertain(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], pool: asyncpg.Pool
) -> None:
    world.error = EffectUncertain("the target broke off")
    for _ in range(2):
        with pytest.raises(EffectUncertain, match="broke off"):
            await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat")
    assert world.times == 1
    assert await state(pool) == ("UNCERTAIN", 1, 1)


async def test_a_silence_that_began_before_the_database_restarted_is_no_sign_of_death(
    ledger: EffectLedger,
    database_url: str,
    world: World,
    caller: Callable[..., Caller],
    pool: asyncpg.Pool,
    eventually: Eventually,
) -> None:
    world.gate.clear()
    task = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat"))
    await eventually(lambda: world.times)
    await freeze(ledger)
    await age(pool)
    async with await open_pool(database_url) as own:
        # Longer than the database has run: as if it had just come back.
        patient = EffectLedger(own, dead_after=100_000)
        waiting = asyncio.create_task(patient.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="repeat"))
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
        world.gate.set()
        assert await waiting == await task == b"answer 1"
    assert world.times == 1


async def test_a_claim_whose_answer_was_lost_is_not_taken_for_an_effect_in_doubt(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], pool: asyncpg.Pool
) -> None:
    begin = ledger._store.begin

    async def commits_but_the_answer_is_lost(*args: object, **named: object) -> object:
        await begin(*args, **named)  # type: ignore[arg-type]
        raise Unavailable("the database is unavailable")

    ledger._store.begin = commits_but_the_answer_is_lost  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain")
    assert await state(pool) == ("RUNNING", 1, 1)
    ledger._store.begin = begin  # type: ignore[method-assign]
    assert await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain") == b"answer 1"


async def test_an_outcome_is_written_again_when_the_answer_to_its_write_was_lost(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], pool: asyncpg.Pool
) -> None:
    finish = ledger._store.finish
    lost = 2

    async def commits_but_the_answer_is_lost(*args: object) -> bool:
        nonlocal lost
        written = await finish(*args)  # type: ignore[arg-type]
        if lost:
            lost -= 1
            raise Unavailable("the database is unavailable")
        return written

    ledger._store.finish = commits_but_the_answer_is_lost  # type: ignore[method-assign]
    assert await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain") == b"answer 1"
    assert (world.times, lost) == (1, 0)
    assert await state(pool) == ("DONE", 1, 1)


async def test_a_drained_executor_hands_its_effects_over_at_once(
    pool: asyncpg.Pool, other: EffectLedger, world: World, caller: Callable[..., Caller], eventually: Eventually
) -> None:
    stopping = EffectLedger(pool, heartbeat=60, dead_after=3600)
    hung = World()
    hung.gate.clear()
    task = asyncio.create_task(stopping.perform(caller(), EffectKey("k", 1), b"f", hung.act, in_doubt="repeat"))
    await eventually(lambda: hung.times)
    await stopping.drain(0.05)
    with pytest.raises(Unavailable):
        await task
    assert await other.perform(caller(), EffectKey("k", 2), b"f", world.act, in_doubt="repeat") == b"answer 1"


async def test_draining_waits_for_what_is_under_way(
    pool: asyncpg.Pool, world: World, caller: Callable[..., Caller], eventually: Eventually
) -> None:
    stopping = EffectLedger(pool)
    world.gate.clear()
    task = asyncio.create_task(stopping.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="uncertain"))
    await eventually(lambda: world.times)
    draining = asyncio.create_task(stopping.drain(10))
    await asyncio.sleep(0)
    world.gate.set()
    await draining
    assert await task == b"answer 1"
    assert (await state(pool))[0] == "DONE"


async def test_answers_lie_encrypted_and_are_gone_when_their_subject_is_erased(
    pool: asyncpg.Pool, keys: SubjectKeys, world: World, caller: Callable[..., Caller]
) -> None:
    ledger = EffectLedger(pool, keys)
    await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat")
    assert b"answer" not in await pool.fetchval("SELECT outcome FROM effect")
    assert await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat") == b"answer 1"
    await keys.erase(pool, "acme", "alice")
    with pytest.raises(SubjectErased):
        await ledger.perform(caller(), EffectKey("k", 1), b"f", world.act, in_doubt="repeat")
    await ledger.drain(1)


async def test_an_execution_that_its_run_stops_is_recorded_as_stopped_and_a_newer_attempt_runs_again(
    ledger: EffectLedger, world: World, caller: Callable[..., Caller], eventually: Eventually
) -> None:
    world.gate.clear()
    key = EffectKey("run_1/pay/1", 3)
    asking = asyncio.create_task(ledger.perform(caller(), key, b"f", world.act, in_doubt="uncertain"))
    await eventually(lambda: world.times == 1)
    assert not ledger.cancel(caller().tenant, EffectKey("run_1/pay/1", 2)), "an older lease stops nothing"
    assert not ledger.cancel("globex", key)
    assert ledger.cancel(caller().tenant, key)
    with pytest.raises(EffectCancelled):
        await asking
    with pytest.raises(SlipwayError) as recorded:
        await ledger.perform(caller(), key, b"f", world.act, in_doubt="uncertain")
    assert recorded.value.reason == "EFFECT_CANCELLED"
    assert not ledger.cancel(caller().tenant, key), "it is under way no more"
    world.gate.set()
    again = EffectKey("run_1/pay/1", 4, 2)
    assert await ledger.perform(caller(), again, b"f", world.act, in_doubt="uncertain") == b"answer 2"
    assert world.finished == 1
