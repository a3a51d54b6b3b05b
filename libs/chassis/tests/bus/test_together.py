"""Commands that come one by one and go out together."""

import asyncio
from collections.abc import Sequence

import pytest
from slipway_chassis.bus.together import Together


class Wire:
    """Records what goes out; every call waits until it is let through, and one that holds `bad` fails."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.called = asyncio.Event()
        self.let_through = asyncio.Semaphore(0)

    async def __call__(self, items: Sequence[str]) -> None:
        self.calls.append(list(items))
        self.called.set()
        await self.let_through.acquire()
        if "bad" in items:
            raise ConnectionError("lost")


async def one_call_under_way(wire: Wire, together: Together[str]) -> asyncio.Task[None]:
    first = asyncio.create_task(together.add("first"))
    await wire.called.wait()
    return first


async def test_what_comes_during_a_call_goes_out_in_the_next_one() -> None:
    wire = Wire()
    together = Together(wire)
    first = await one_call_under_way(wire, together)
    others = [asyncio.create_task(together.add(name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    assert wire.calls == [["first"]]
    wire.let_through.release()
    await first
    assert not any(other.done() for other in others)
    wire.let_through.release()
    await asyncio.gather(*others)
    assert wire.calls == [["first"], ["a", "b", "c"]]


async def test_a_call_that_fails_is_told_to_those_who_were_in_it_and_to_nobody_else() -> None:
    wire = Wire()
    together = Together(wire)
    first = await one_call_under_way(wire, together)
    failing = [asyncio.create_task(together.add(name)) for name in ("a", "bad")]
    await asyncio.sleep(0)
    for _ in range(3):
        wire.let_through.release()
    await first
    for one in failing:
        with pytest.raises(ConnectionError):
            await one
    await together.add("after")
    assert wire.calls == [["first"], ["a", "bad"], ["after"]]


async def test_what_a_cancelled_caller_handed_over_stays_on_its_way() -> None:
    wire = Wire()
    together = Together(wire)
    first = await one_call_under_way(wire, together)
    gone = asyncio.create_task(together.add("a"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    for _ in range(3):
        wire.let_through.release()
    await first
    await together.add("b")
    assert [name for call in wire.calls for name in call] == ["first", "a", "b"]
