"""A run in a worker's hands: its lease, its state, what is not committed yet, and what is under way."""

import asyncio
from dataclasses import dataclass
from time import monotonic

from slipway_chassis.policy import PolicyEngine

from slipway_orchestrator.core.actions import Tree
from slipway_orchestrator.core.events import Event, StepStarted
from slipway_orchestrator.core.state import RunState, Totals, apply
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.store.leases import Lease, Leases
from slipway_orchestrator.worker.announcing import Announcer
from slipway_orchestrator.worker.committing import Committer
from slipway_orchestrator.worker.crash import CrashPoints
from slipway_orchestrator.worker.flights import Flights
from slipway_orchestrator.worker.performing import Performer
from slipway_orchestrator.worker.sources import Sources

_LOOK_AGAIN = 0.2
"""Seconds for which what other runs of a tree have used is taken to be the same."""


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
        self._others: Tree | None = None
        self._others_until = 0.0
        """When it is looked up again what the others of the tree used, by the monotonic clock."""
        self._intents: dict[str, int] = {}
        """By step key: how many events must be durable before its attempt may begin."""

    def add(self, event: Event, *, result: bool = False) -> None:
        """Append an event. `result`: it is the outcome of an attempt, and cannot be had again by deciding anew."""
        now = self.lease.now()
        added = self.committer.add(now, event, result=result)
        apply(self.state, now, event)
        if isinstance(event, StepStarted):
            self._intents[event.step_id] = added

    async def look_at_tree(self) -> None:
        """Look up what the other runs of the tree have used, if there are any: when this one has got on, but not all
        the time."""
        started, now = self.state.started, monotonic()
        if started is None or not (started.depth or self.lease.has_children) or now < self._others_until:
            return
        self._others_until = now + _LOOK_AGAIN
        root = started.root_run_id or self.lease.run.run_id
        self._others = await self.tools.leases.used_by_others(self.lease, root)

    @property
    def tree(self) -> Tree | None:
        """What all runs of the tree used together, and what they may; None while nothing binds them."""
        others, own = self._others, self.state.totals
        if others is None:
            return None
        used = others.totals
        totals = Totals(
            used.steps + own.steps,
            used.input_tokens + own.input_tokens,
            used.output_tokens + own.output_tokens,
            used.cost_usd + own.cost_usd,
        )
        return Tree(totals, others.steps, others.tokens, others.cost_usd)

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
