"""A run in a worker's hands: its lease, its state, what is not committed yet, and what is under way."""

import asyncio
from dataclasses import dataclass

from slipway_chassis.policy import PolicyEngine

from slipway_orchestrator.core.events import Event, StepStarted
from slipway_orchestrator.core.state import RunState, apply
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.store.leases import Lease, Leases
from slipway_orchestrator.worker.announcing import Announcer
from slipway_orchestrator.worker.committing import Committer
from slipway_orchestrator.worker.crash import CrashPoints
from slipway_orchestrator.worker.flights import Flights
from slipway_orchestrator.worker.performing import Performer
from slipway_orchestrator.worker.sources import Sources


@dataclass(frozen=True, slots=True)
class Tools:
    """What advancing a run needs; one for all runs of a worker."""

    leases: Leases
    sources: Sources
    peers: Peers
    performer: Performer
    evaluator: Evaluator
    policy: PolicyEngine
    announcer: Announcer
    crash: CrashPoints


class Held:
    """One run under one lease. The state is ahead of the journal by what `committer` has not written yet."""

    def __init__(self, tools: Tools, lease: Lease) -> None:
        self.tools = tools
        self.lease = lease
        self.changed = asyncio.Event()
        """Set when an attempt or a commit ends."""
        self.state = RunState()
        self.flights = Flights(self.changed.set)
        self.committer = Committer(lease, tools.leases, tools.announcer, tools.crash, self.changed.set)
        self._intents: dict[str, int] = {}
        """By step key: how many events must be durable before its attempt may begin."""

    def add(self, event: Event, *, result: bool = False) -> None:
        """Append an event. `result`: it is the outcome of an attempt, and cannot be had again by deciding anew."""
        now = self.lease.now()
        added = self.committer.add(now, event, result=result)
        apply(self.state, now, event)
        if isinstance(event, StepStarted):
            self._intents[event.step_id] = added

    def is_durable(self, key: str) -> bool:
        """Whether a step's last intent is committed, and with it all that was decided before."""
        return self._intents.get(key, 0) <= self.committer.written

    def start_anew(self, state: RunState) -> None:
        """Go on from what is durable; the outcomes that are not are kept."""
        results = self.committer.start_anew()
        self.state = state
        self._intents.clear()
        for event in results:
            self.add(event, result=True)
