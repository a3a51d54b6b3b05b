"""How many calls of other servers run at a time, and whose."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from slipway_tools.errors import QueueFull
from slipway_tools.gate import Gate, TenantCalls


class Calls:
    """Calls that hold their place until they are let go."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.running: list[str] = []
        self.refused: list[Exception] = []
        self._go = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def add(self, tenant: str, number: int) -> None:
        self._tasks += [asyncio.create_task(self._call(tenant)) for _ in range(number)]
        for _ in range(10):
            await asyncio.sleep(0)

    async def _call(self, tenant: str) -> None:
        try:
            async with self._gate.enter(tenant):
                self.running.append(tenant)
                await self._go.wait()
        except (QueueFull, TenantCalls) as error:
            self.refused.append(error)

    async def end(self) -> None:
        self._go.set()
        await asyncio.gather(*self._tasks)


async def test_one_tenant_leaves_room_for_others_however_many_it_sends() -> None:
    calls = Calls(Gate(8, 4))
    await calls.add("acme", 20)
    assert calls.running == ["acme"] * 6
    assert [type(error) for error in calls.refused] == [TenantCalls] * 12
    await calls.add("globex", 2)
    assert calls.running == ["acme"] * 6 + ["globex"] * 2
    await calls.end()
    assert len(calls.running) == 10


async def test_beyond_the_queue_calls_are_refused_and_room_comes_back() -> None:
    gate = Gate(2, 2)
    calls = Calls(gate)
    for tenant in ("a", "b", "c", "d", "e"):
        await calls.add(tenant, 1)
    assert calls.running == ["a", "b"]
    assert [type(error) for error in calls.refused] == [QueueFull]
    await calls.end()
    async with AsyncExitStack() as stack:
        for tenant in ("a", "b"):
            await stack.enter_async_context(gate.enter(tenant))


async def test_a_call_that_gives_up_while_it_waits_leaves_nothing_behind() -> None:
    gate = Gate(1, 4)
    async with gate.enter("acme"):
        waiting = asyncio.create_task(gate.enter("acme").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(5), gate.enter("acme"):
        pass
