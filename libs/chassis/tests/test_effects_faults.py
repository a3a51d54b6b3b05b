"""The effect ledger when processes are really killed or frozen, and when the database is really restarted."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectKey, EffectLedger, EffectUncertain
from slipway_chassis.postgres import StoreUnavailable, migrate, open_pool
from slipway_testkit.servers.postgres import embedded_postgres

PROGRAM = Path(__file__).parent / "programs" / "effect_executor.py"
Eventually = Callable[..., Awaitable[Any]]


@contextlib.asynccontextmanager
async def executing(database_url: str, done: Path, in_doubt: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process in the middle of the effect: its line stands in the file, its outcome not in the ledger."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), database_url, str(done), in_doubt)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def ledger(pool: asyncpg.Pool) -> AsyncIterator[EffectLedger]:
    made = EffectLedger(pool, heartbeat=0.1, dead_after=1)
    yield made
    await made.drain(5)


def appending(done: Path) -> Callable[[], Awaitable[bytes]]:
    async def act() -> bytes:
        with done.open("a") as lines:
            lines.write("done again\n")
        return b"again"

    return act


async def test_an_effect_of_a_killed_process_is_repeated_by_the_next_epoch(
    database_url: str, ledger: EffectLedger, caller: Callable[..., Caller], tmp_path: Path, eventually: Eventually
) -> None:
    done = tmp_path / "done"
    async with executing(database_url, done, "repeat") as process:
        await eventually(done.exists, timeout=30)
        process.kill()
        key = EffectKey("run_1/pay/1", 2)
        assert await ledger.perform(caller(), key, b"f", appending(done), in_doubt="repeat") == b"again"
    assert done.read_text() == "done by the one that is killed\ndone again\n"


async def test_an_effect_of_a_killed_process_that_must_not_be_repeated_is_left_to_a_person(
    database_url: str, ledger: EffectLedger, caller: Callable[..., Caller], tmp_path: Path, eventually: Eventually
) -> None:
    done = tmp_path / "done"
    async with executing(database_url, done, "uncertain") as process:
        await eventually(done.exists, timeout=30)
        process.kill()
        key = EffectKey("run_1/pay/1", 2)
        with pytest.raises(EffectUncertain):
            await ledger.perform(caller(), key, b"f", appending(done), in_doubt="uncertain")
    assert done.read_text() == "done by the one that is killed\n"


async def test_a_frozen_process_is_taken_for_dead_and_a_live_one_is_not(
    database_url: str, ledger: EffectLedger, caller: Callable[..., Caller], tmp_path: Path, eventually: Eventually
) -> None:
    done = tmp_path / "done"
    async with executing(database_url, done, "repeat") as process:
        await eventually(done.exists, timeout=30)
        key = EffectKey("run_1/pay/1", 2)
        waiting = asyncio.create_task(ledger.perform(caller(), key, b"f", appending(done), in_doubt="repeat"))
        finished, _ = await asyncio.wait({waiting}, timeout=2)
        assert not finished
        process.send_signal(signal.SIGSTOP)
        assert await asyncio.wait_for(waiting, 10) == b"again"


async def test_an_outcome_outlives_a_restart_of_the_database(
    caller: Callable[..., Caller], eventually: Eventually
) -> None:
    with embedded_postgres() as server:
        pool = await open_pool(server.url())
        await migrate(pool, "slipway_chassis", chassis=["effects"])
        ledger = EffectLedger(pool, heartbeat=0.1, dead_after=1)
        started, gate = asyncio.Event(), asyncio.Event()
        times = 0

        async def act() -> bytes:
            nonlocal times
            times += 1
            started.set()
            await gate.wait()
            return b"bought"

        first = asyncio.create_task(ledger.perform(caller(), EffectKey("k", 1), b"f", act, in_doubt="uncertain"))
        await started.wait()
        server.process.kill()
        gate.set()
        with pytest.raises(StoreUnavailable):
            await ledger.perform(caller(), EffectKey("k", 1), b"f", act, in_doubt="uncertain")
        server.restart(crash=True)
        assert await asyncio.wait_for(first, 30) == b"bought"
        assert await ledger.perform(caller(), EffectKey("k", 2), b"f", act, in_doubt="uncertain") == b"bought"
        assert times == 1
        await ledger.drain(1)
        await pool.close()
