"""Attempts under way in one run."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from slipway_orchestrator.core.actions import Perform
from slipway_orchestrator.core.events import Event
from slipway_orchestrator.worker.performing import GRACE

MOST = 64
"""Attempts of one run under way at once; more begin as these end."""
_STOPPING = 2.0
"""Seconds that attempts have to end by themselves before they are told to stop."""


@dataclass(slots=True)
class _Flight:
    perform: Perform
    task: "asyncio.Task[Event]"
    bound: float
    """When it is given up, by the monotonic clock: it does not even end when its time is up."""


class Flights:
    """Attempts under way, by step key. `changed` is called whenever one ends."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._flights: dict[str, _Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    @property
    def full(self) -> bool:
        """No more may begin now."""
        return len(self._flights) >= MOST

    @property
    def bound(self) -> float:
        """When the last of them has ended or is given up, by the monotonic clock; 0 when there is none."""
        return max((flight.bound for flight in self._flights.values()), default=0.0)

    def start(self, perform: Perform, work: Coroutine[Any, Any, Event]) -> None:
        """Begin an attempt."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _task: self._changed())
        bound = time.monotonic() + perform.step.timeout + 2 * GRACE
        self._flights[perform.at.key] = _Flight(perform, task, bound)

    def ended(self) -> list[Event]:
        """The outcomes that came since; what an attempt raised is raised."""
        done = [key for key, flight in self._flights.items() if flight.task.done()]
        return [self._flights.pop(key).task.result() for key in done]

    def overdue(self) -> list[Perform]:
        """Attempts that did not end in their time: given up."""
        now = time.monotonic()
        late = [key for key, flight in self._flights.items() if now > flight.bound]
        given_up = [self._flights.pop(key) for key in late]
        for flight in given_up:
            flight.task.cancel()
        return [flight.perform for flight in given_up]

    async def stop(self, *, force: bool) -> tuple[list[Event], list[Perform]]:
        """Let them end, then tell those that do not to stop: the outcomes, and the attempts without one."""
        if not force:
            await self._wait(_STOPPING)
        for flight in self._flights.values():
            flight.task.cancel()
        await self._wait(GRACE)
        flights, self._flights = self._flights, {}
        events, cut = list[Event](), list[Perform]()
        for flight in flights.values():
            if flight.task.done() and not flight.task.cancelled():
                events.append(flight.task.result())
            else:
                cut.append(flight.perform)
        return events, cut

    async def close(self) -> None:
        """End them all at once; their outcomes do not count."""
        for flight in self._flights.values():
            flight.task.cancel()
        await self._wait(GRACE)
        for flight in self._flights.values():
            if flight.task.done() and not flight.task.cancelled():
                flight.task.exception()  # looked at
        self._flights.clear()

    async def _wait(self, seconds: float) -> None:
        tasks = {flight.task for flight in self._flights.values()}
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
