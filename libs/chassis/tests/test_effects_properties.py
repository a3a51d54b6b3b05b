"""The effect ledger under arbitrary histories: processes ask, succeed, fail and die in any order."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from slipway_chassis.caller import Caller
from slipway_chassis.effects import EffectKey, EffectLedger, EffectUncertain
from slipway_chassis.errors import FailedPrecondition, SlipwayError
from slipway_chassis.postgres import migrate, open_pool

PROCESSES = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("ask"), PROCESSES, st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.just("succeed"), PROCESSES),
    st.tuples(st.just("fail"), PROCESSES),
    st.tuples(st.just("die"), PROCESSES),
)


class Refused(FailedPrecondition):
    reason = "REFUSED"


@dataclass
class Execution:
    """One time that the action began: by which process and attempt, and how it ended (lost: with its process)."""

    process: int
    attempt: int
    number: int
    ended: "asyncio.Future[bool]"
    fate: str = "running"


@dataclass
class History:
    """Plays steps against ledgers on one database, and checks every beginning against what went before."""

    pool: asyncpg.Pool
    caller: Caller
    ledgers: list[EffectLedger] = field(default_factory=list)
    executions: list[Execution] = field(default_factory=list)
    asked: set["asyncio.Task[None]"] = field(default_factory=set)
    answers: set[bytes] = field(default_factory=set)
    uncertain_up_to: int = 0

    def ledger(self) -> EffectLedger:
        # No heartbeat: a process is dead when the history says so, never because the test machine is slow.
        return EffectLedger(self.pool, heartbeat=3600, dead_after=3600)

    async def ask(self, process: int, epoch: int, attempt: int) -> None:
        async def act() -> bytes:
            return await self.begin(process, attempt)

        async def perform() -> None:
            try:
                effect = EffectKey("k", epoch, attempt)
                answer = await self.ledgers[process].perform(self.caller, effect, b"f", act, in_doubt="uncertain")
                self.answers.add(answer)
            except EffectUncertain:
                row = await self.pool.fetchrow("SELECT attempt FROM effect")
                self.uncertain_up_to = max(self.uncertain_up_to, row["attempt"])
            except SlipwayError:
                pass

        task = asyncio.create_task(perform())
        self.asked.add(task)
        await self.settle()

    async def begin(self, process: int, attempt: int) -> bytes:
        for earlier in self.executions:
            # The heart of it: nothing that succeeded, runs or may have happened is done again unasked.
            assert earlier.fate in ("failed", "lost"), f"attempt {attempt} began although one {earlier.fate}"
            assert earlier.attempt < attempt, "an attempt was made twice"
            if earlier.fate == "lost":
                assert attempt > self.uncertain_up_to > 0, "a lost effect was repeated without a person's word"
        execution = Execution(process, attempt, len(self.executions), asyncio.get_running_loop().create_future())
        self.executions.append(execution)
        if not await execution.ended:
            raise Refused("no")
        return b"answer %d" % execution.number

    async def end(self, process: int, fate: str) -> None:
        for execution in self.executions:
            if execution.process == process and execution.fate == "running":
                execution.fate = fate
                execution.ended.set_result(fate == "succeeded")
        await self.settle()

    async def die(self, process: int) -> None:
        dead = self.ledgers[process]

        async def unwritten(*_: Any) -> Any:
            await asyncio.Event().wait()

        dead._store.finish = unwritten  # type: ignore[method-assign]
        dead._store.release = unwritten  # type: ignore[method-assign]
        for execution in self.executions:
            if execution.process == process and execution.fate == "running":
                execution.fate = "lost"
        await self.pool.execute("UPDATE effect SET heartbeat = '-infinity' WHERE owner = $1", dead._store._owner)
        for task in [*dead._tasks, *([dead._heartbeat] if dead._heartbeat else [])]:
            task.cancel()
        self.ledgers[process] = self.ledger()
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that can happen now."""
        for _ in range(4):
            await asyncio.sleep(0)
            await self.pool.fetchval("SELECT 1")
        await asyncio.wait({asyncio.create_task(asyncio.sleep(0.002))})


async def play(database_url: str, caller: Caller, steps: list[tuple[Any, ...]]) -> None:
    async with await open_pool(database_url, max_size=4) as pool:
        await migrate(pool, "slipway_chassis", chassis=["effects"])
        await pool.execute("TRUNCATE effect")
        history = History(pool, caller)
        history.ledgers = [history.ledger(), history.ledger()]
        problems: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))
        for step, *arguments in steps:
            match step:
                case "ask":
                    await history.ask(*arguments)
                case "die":
                    await history.die(*arguments)
                case _:
                    await history.end(*arguments, {"succeed": "succeeded", "fail": "failed"}[step])
        for process in (0, 1):
            await history.end(process, "succeeded")
        for task in history.asked:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*history.asked, return_exceptions=True)
        for ledger in history.ledgers:
            await ledger.drain(1)
        broken = [t.exception() for t in history.asked if not t.cancelled() and t.exception()]
        assert not broken, broken
        assert not problems, problems
        succeeded = {b"answer %d" % e.number for e in history.executions if e.fate == "succeeded"}
        assert len(succeeded) <= 1
        assert history.answers <= succeeded


@pytest.fixture
def alice(caller: Callable[..., Caller]) -> Caller:
    return caller()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=[("ask", 0, 1, 1), ("fail", 0), ("ask", 1, 1, 1), ("ask", 1, 1, 2)])
@example(steps=[("ask", 0, 1, 1), ("die", 0), ("ask", 1, 2, 1), ("ask", 1, 2, 2), ("ask", 0, 1, 3)])
@given(steps=st.lists(STEPS, min_size=3, max_size=14))
def test_an_effect_that_must_not_be_repeated_never_is_whatever_happens(
    database_url: str, alice: Caller, steps: list[tuple[Any, ...]]
) -> None:
    asyncio.run(play(database_url, alice, steps))
