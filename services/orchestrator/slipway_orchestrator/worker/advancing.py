"""Advancing one run: fold its journal, decide, act, commit; until it parks or ends."""

import asyncio
from contextlib import suppress
from datetime import timedelta

from slipway_chassis.logs import get_logger

from slipway_orchestrator.core.actions import Decider, Park, Perform
from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.core.events import RunFailed, RunPaused, RunRecovered
from slipway_orchestrator.core.loop.decider import decider_of
from slipway_orchestrator.core.retry import Failure
from slipway_orchestrator.core.state import fold
from slipway_orchestrator.store.committing import LeaseLost
from slipway_orchestrator.store.leases import Lease, SettledMeanwhile
from slipway_orchestrator.worker import announcing
from slipway_orchestrator.worker.acting import Acting
from slipway_orchestrator.worker.attempt import AttemptFailed
from slipway_orchestrator.worker.beginning import Beginning
from slipway_orchestrator.worker.held import Held, Tools
from slipway_orchestrator.worker.inbox import KINDS, Inbox
from slipway_orchestrator.worker.keeping import Keeper
from slipway_orchestrator.worker.metrics import ENDED
from slipway_orchestrator.worker.performing import came_to

_log = get_logger(__name__)
_STUCK = 20
"""Leases without a commit after which a run is given up: whatever stops it stops every worker."""
_GATHER = 4
"""Decisions that lead to something at once before it is committed: a result goes together with the next intent."""


class Advance:
    """One run under one lease."""

    def __init__(self, tools: Tools, lease: Lease) -> None:
        self._tools = tools
        self._lease = lease
        self._held = Held(tools, lease)
        self._inbox = Inbox(tools.policy)
        self._keeper = Keeper(tools.leases, lease, lambda: self._held.flights.bound, self.nudge)
        self._taken: set[int] = set()
        """Inbox items that are answered."""
        self._moves = 0
        """Decisions in a row that led to something at once."""

    def nudge(self) -> None:
        """The inbox has something."""
        self._held.committer.asked = True
        self._held.changed.set()

    async def run(self) -> None:
        """Until the run parks or ends. Raises LeaseLost, or Unavailable when nobody knows what was committed."""
        keeping = asyncio.create_task(self._keeper.run())
        try:
            await self._run()
        finally:
            keeping.cancel()
            await self._held.flights.close()
            await self._held.committer.close()
            await asyncio.wait({keeping})

    async def _run(self) -> None:
        held = self._held
        held.state = fold(await self._tools.leases.read(self._lease))
        if self._lease.recovered:
            held.add(RunRecovered(self._lease.owner, self._lease.epoch))
        if self._lease.idle_leases >= _STUCK:
            held.add(RunFailed("RUN_STUCK", f"{self._lease.idle_leases} workers could not advance the run"))
        else:
            definition = await self._tools.sources.definition(self._lease.run)
            if definition is not None:
                return await self._advance(definition)
            held.add(RunFailed("DEFINITION_UNREADABLE", "the agent's definition cannot be read by this worker"))
        await held.committer.flush(held.state)
        return None

    async def _look_at_kill_switch(self) -> None:
        """Whoever claims a run, or lets one go on, looks for itself: runs that wait are not told one by one."""
        state = self._held.state
        if state.ended is not None or state.paused is not None or state.cancel is not None:
            return
        reason = await self._tools.sources.suspended(self._lease.run)
        if reason is not None:
            self._held.add(RunPaused(reason, "SUSPENDED"))

    async def _advance(self, definition: Definition) -> None:
        decider = decider_of(definition)
        acting = Acting(self._held, definition, decider, Beginning(definition, self._tools.evaluator))
        self._held.committer.asked = True
        while True:
            self._held.changed.clear()
            try:
                if await self._once(decider, acting):
                    return
            except SettledMeanwhile:
                # Somebody decided as the approval ran out: begin anew, with the decision.
                self._held.start_anew(fold(await self._tools.leases.read(self._lease)))
                self._taken.clear()
                self._held.committer.asked = True

    async def _once(self, decider: Decider, acting: Acting) -> bool:
        """Decide and act. True: the run is parked or over."""
        held, committer = self._held, self._held.committer
        if self._keeper.lost:
            raise LeaseLost
        if committer.asked:
            await self._take_inbox(acting)
            await self._look_at_kill_switch()
        self._take_outcomes()
        await held.look_at_tree()
        actions = decider.decide(held.state, self._lease.now(), held.tree)
        if self._moves >= _GATHER:
            committer.go_on(held.state)
        done = await acting.act(actions)
        if done.ended:
            await committer.flush(held.state)
            self._count_end()
            return True
        if done.moved:
            self._moves += 1
            self._keeper.progress()
            if committer.full:
                await committer.idle()
            await asyncio.sleep(0)  # the commit under way, and other runs, get on as well
            return False
        if done.park is not None and not held.flights and not any(isinstance(action, Perform) for action in actions):
            await self._park(done.park)
            return True
        self._moves = 0
        committer.go_on(held.state)
        await self._wait(done.park)
        return False

    async def _park(self, park: Park) -> None:
        if self._held.state.waiting != park.waiting:
            self._held.add(park.waiting)
        self._tools.crash.passing("before-park")
        await self._held.committer.flush(self._held.state, (park.waiting.state, park.until))
        self._tools.crash.passing("after-park")

    async def _wait(self, park: Park | None) -> None:
        """Until something comes up: an outcome, a commit, a time, or somebody."""
        latest = self._lease.now() + timedelta(seconds=self._tools.leases.seconds)
        until = latest if park is None else min(park.until, latest)
        seconds = max((until - self._lease.now()).total_seconds(), 0.001)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._held.changed.wait()

    def _take_outcomes(self) -> None:
        for event in self._held.flights.ended():
            self._tools.crash.passing("after-effect")
            self._held.add(event, result=True)
        for perform in self._held.flights.overdue():
            # It does not even end when it is told to.
            failure = Failure("STEP_TIMEOUT", "DEADLINE_EXCEEDED", "the attempt did not end in time", True)
            self._held.add(came_to(self._lease, perform, AttemptFailed(failure)), result=True)

    async def _take_inbox(self, acting: Acting) -> None:
        held = self._held
        held.committer.asked = False
        for item in await self._tools.leases.inbox(self._lease):
            if item.id in self._taken or item.kind not in KINDS | {"child"}:
                continue
            self._taken.add(item.id)
            decision = None
            if item.kind == "child":
                event = acting.children.ended(item)
            else:
                event, decision = self._inbox.event(self._lease.run, held.state, item)
            held.committer.entry.consumed.append(item.id)
            if decision is not None:
                held.committer.entry.policy = decision
            if event is not None and held.state.ended is None:
                held.add(event)
                acting.children.bound_by(event)

    def _count_end(self) -> None:
        ended = self._held.state.ended
        if ended is not None:
            outcome = ended.kind.removeprefix("run.")
            run = self._lease.run
            ENDED.labels(outcome).inc()
            self._tools.announcer.say(announcing.ENDED, {"tenant": run.tenant, "run": run.run_id})
            _log.info("run.ended", run_id=run.run_id, outcome=outcome)
