"""The commits of one run: one at a time, while the next one gathers what comes up meanwhile."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from slipway_orchestrator.core.events import (
    ApprovalRequested,
    Event,
    LoopDetected,
    RunCancelled,
    RunFailed,
    RunPaused,
    RunSucceeded,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
    StepUncertain,
)
from slipway_orchestrator.core.state import CONTAINERS, RunState, Totals
from slipway_orchestrator.store.leases import Entry, Lease, Leases
from slipway_orchestrator.worker.announcing import Announcer, run_channel
from slipway_orchestrator.worker.crash import CrashPoints
from slipway_orchestrator.worker.metrics import ASKED, LOOPS, PAUSED

MOST_WAITING = 200
"""Events that wait for a commit; more come up when it is done."""


class Committer:
    """Writes what is decided. `changed` is called whenever a commit is done."""

    def __init__(
        self,
        lease: Lease,
        leases: Leases,
        announcer: Announcer,
        crash: CrashPoints,
        changed: Callable[[], None],
    ) -> None:
        self._lease = lease
        self._leases = leases
        self._announcer = announcer
        self._crash = crash
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._results: list[list[Event]] = [[]]
        """Outcomes of attempts in the commit under way, and in the one that gathers."""
        self.entry = Entry()
        """What the next commit writes."""
        self.written = 0
        """Events that are durable, since the run was claimed."""
        self.added = 0
        """Events in all, since the run was claimed."""
        self.asked = False
        """The inbox has something; whoever takes it sets it back."""

    @property
    def busy(self) -> bool:
        """A commit is under way."""
        return self._task is not None and not self._task.done()

    @property
    def full(self) -> bool:
        """Too much waits: nothing more is decided until a commit is done."""
        return len(self.entry.events) >= MOST_WAITING

    def add(self, time: datetime, event: Event, *, result: bool = False) -> int:
        """Gather an event; how many events there are with it. `result`: it cannot be had again by deciding anew."""
        self.entry.events.append((time, event))
        if result:
            self._results[-1].append(event)
        self.added += 1
        return self.added

    def go_on(self, state: RunState) -> None:
        """Commit what is gathered, unless a commit is under way. Raises what the last one raised."""
        if self._task is not None:
            if not self._task.done():
                return
            self._finish()
        if self.entry.events or self.entry.consumed:
            entry = self._take()
            # The totals as they are now: nothing is added to this entry any more.
            self._task = asyncio.create_task(self._commit(entry, state.totals, None))
            self._task.add_done_callback(lambda _task: self._changed())

    async def flush(self, state: RunState, park: tuple[str, datetime] | None = None) -> None:
        """Commit everything, and park the run. Raises LeaseLost, SettledMeanwhile or Unavailable."""
        await self.idle()
        if park is not None or self.entry.events or self.entry.consumed:
            await self._commit(self._take(), state.totals, park)
            self._results.pop(0)

    async def idle(self) -> None:
        """Until no commit is under way. Raises what it raised."""
        if self._task is not None:
            await asyncio.wait({self._task})
            self._finish()

    async def close(self) -> None:
        """Until no commit is under way, whatever comes of it."""
        if self._task is not None:
            await asyncio.wait({self._task})
            self._task.exception()  # looked at
            self._task = None

    def start_anew(self) -> list[Event]:
        """Forget what could not be written; the outcomes in it, which must be written all the same."""
        results = [event for batch in self._results for event in batch]
        self.entry, self._results, self.added = Entry(), [[]], self.written
        return results

    def _take(self) -> Entry:
        entry, self.entry = self.entry, Entry()
        self._results.append([])
        return entry

    def _finish(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.result()
            self._results.pop(0)

    async def _commit(self, entry: Entry, totals: Totals, park: tuple[str, datetime] | None) -> None:
        marks = _marks(entry) if self._crash.armed else []
        for mark in marks:
            self._crash.passing(f"before-{mark}")
        if await self._leases.commit(self._lease, entry, totals, park=park):
            self.asked = True
        for mark in marks:
            self._crash.passing(f"after-{mark}")
        self.written += len(entry.events)
        for _, event in entry.events:
            _count(event)
        self._announcer.say(run_channel(self._lease.run.run_id), {"seq": self._lease.head.seq})


def _count(event: Event) -> None:
    match event:
        case RunPaused(code=code):
            PAUSED.labels(code).inc()
        case LoopDetected(pattern=pattern):
            LOOPS.labels(pattern).inc()
        case ApprovalRequested(escalation=escalation):
            ASKED.labels("escalation" if escalation else "gate").inc()
        case _:
            pass


def _marks(entry: Entry) -> list[str]:
    """What a commit writes, in the words of `crash.POINTS`."""
    found = {"commit": True}
    for _, event in entry.events:
        container = getattr(event, "type", "") in CONTAINERS
        match event:
            case StepStarted() | ApprovalRequested():
                found["fan-out" if container else "intent"] = True
            case StepCompleted(type=kind) | StepFailed(type=kind) | StepRetrying(type=kind) | StepUncertain(type=kind):
                found["join" if container else "child-end" if kind == "agent" else "result"] = True
            case RunSucceeded() | RunFailed() | RunCancelled():
                found["end"] = True
            case _:
                pass
    if entry.children:
        found["child-start"] = True
    return list(found)
