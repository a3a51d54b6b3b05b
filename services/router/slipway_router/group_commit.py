"""Group commit: what comes while one transaction is under way goes together into the next."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from slipway_chassis.errors import SlipwayError, Unavailable

T = TypeVar("T")
R = TypeVar("R")

_MOST = 256
"""Items of one transaction."""


class GroupCommit(Generic[T, R]):
    """Commits items in groups, one group at a time, in the order in which they came.

    Without `linger` a group of one costs no waiting; under load the cost of a commit is shared. With it, a group is
    gathered for that many seconds first, unless something urgent is in it or somebody drains. An item that the database
    refuses takes no other with it: its group is then committed one by one.
    """

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, linger: float = 0.0) -> None:
        """`commit` writes a group durably and answers with a result for each item; all or nothing."""
        self._commit = commit
        self._linger = linger
        self._hurry = asyncio.Event()
        self._queue: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._writing: list[tuple[T, asyncio.Future[R]]] = []
        self._worker: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """True when everything that was handed over is committed, or has failed."""
        return self._worker is None or self._worker.done()

    def submit(self, item: T, *, urgent: bool = False) -> "asyncio.Future[R]":
        """Hand an item over; the future has its result once it is committed, or what `commit` raised.

        `urgent`: somebody waits for it.
        """
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if urgent:
            self._hurry.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return future

    async def drain(self) -> None:
        """Wait until everything that was handed over by now is committed, or has failed."""
        waiting = [future for _, future in (*self._writing, *self._queue) if not future.done()]
        if waiting:
            self._hurry.set()
            await asyncio.wait(waiting)

    async def _work(self) -> None:
        while self._queue:
            if self._linger and len(self._queue) < _MOST:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._linger):
                        await self._hurry.wait()
            self._hurry.clear()
            group = [self._queue.popleft() for _ in range(min(len(self._queue), _MOST))]
            self._writing = group
            await self._write(group)
            self._writing = []

    async def _write(self, group: "list[tuple[T, asyncio.Future[R]]]") -> None:
        try:
            results = await self._commit([item for item, _ in group])
        except (Unavailable, asyncio.CancelledError) as error:
            _fail(group, error)
            if isinstance(error, asyncio.CancelledError):
                raise
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            if len(group) == 1 or isinstance(error, SlipwayError):
                _fail(group, error)
                return
            for one in group:
                await self._write([one])
        else:
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _fail(group: "list[tuple[T, asyncio.Future[R]]]", error: BaseException) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)
            # Whoever handed it over may not wait for it.
            future.exception()
