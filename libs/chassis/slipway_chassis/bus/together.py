"""Commands that come one by one and go out together: while one round trip is under way, the next one fills."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Sends items with `send`, one call at a time, each with all items that came during the call before it."""

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def add(self, item: T) -> None:
        """Returns when the call that took `item` has succeeded; raises what it raised.

        A caller that is cancelled leaves its item on its way.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._sending is None:
            # The task is kept, and ends by itself when nothing waits any more.
            self._sending = asyncio.create_task(self._send_all())
        await done

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                taken, self._waiting = self._waiting, []
                try:
                    await self._send([item for item, _ in taken])
                except Exception as error:  # noqa: BLE001 - it belongs to those who wait, whatever it is
                    _settle(taken, error)
                else:
                    _settle(taken, None)
        finally:
            self._sending = None


def _settle(taken: Sequence[tuple[T, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, done in taken:
        if done.cancelled():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
