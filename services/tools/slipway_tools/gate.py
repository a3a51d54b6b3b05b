"""Bounds how many calls run at once and how many may wait."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from slipway_tools.errors import QueueFull


class Gate:
    """Lets `limit` calls run; `queue` more may wait, the next is refused."""

    def __init__(self, limit: int, queue: int) -> None:
        self._free = asyncio.Semaphore(limit)
        self._queue = queue
        self._waiting = 0

    @asynccontextmanager
    async def enter(self) -> AsyncGenerator[None]:
        """Run the block when there is room; raises QueueFull."""
        if self._free.locked() and self._waiting >= self._queue:
            raise QueueFull("too many calls run and wait already", retry_after=1)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
