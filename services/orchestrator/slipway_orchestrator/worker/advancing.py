"""Advancing one run: fold its journal, decide, act, commit; until it parks or ends."""

import asyncio
import json
from dataclasses import dataclass
from datetime import datetime, timedelta

from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.logs import get_logger
from slipway_chassis.policy import PolicyEngine

from slipway_orchestrator.core.decide import (
    Append,
    Ask,
    Begin,
    Conclude,
    Ended,
    Park,
    Perform,
    decide,
)
from slipway_orchestrator.core.definition import Definition, Step, ToolCall
from slipway_orchestrator.core.events import ApprovalRequested, Event, RunFailed, RunRecovered, RunWaiting
from slipway_orchestrator.core.state import RunState, apply, fold
from slipway_orchestrator.definitions.catalogue import ToolDescription
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.store.leases import Entry, Lease, Leases, SettledMeanwhile
from slipway_orchestrator.worker.announcing import Announcer, run_channel
from slipway_orchestrator.worker.attempt import failure_of
from slipway_orchestrator.worker.beginning import Beginning, failed
from slipway_orchestrator.worker.crash import CrashPoints
from slipway_orchestrator.worker.inbox import Inbox
from slipway_orchestrator.worker.metrics import ENDED
from slipway_orchestrator.worker.performing import Asked, Performer
from slipway_orchestrator.worker.sources import Sources

_log = get_logger(__name__)
_INTENTS = frozenset({"step.started", "approval.requested"})
_RESULTS = frozenset({"step.completed", "step.failed", "step.retrying", "step.uncertain"})
_STUCK = 20
"""Leases without a commit after which a run is given up: whatever stops it stops every worker."""
_PEER_AWAY = 3.0
"""Seconds for which a run waits when a service is away that the next step needs for its preparation."""


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


class Advance:
    """One run under one lease."""

    def __init__(self, tools: Tools, lease: Lease, nudge: asyncio.Event) -> None:
        self._tools = tools
        self._lease = lease
        self._nudge = nudge
        self._inbox = Inbox(tools.policy)
        self._state = RunState()
        self._entry = Entry()
        self._described: dict[str, ToolDescription] = {}

    async def run(self) -> None:
        """Until the run parks or ends. Raises LeaseLost, or Unavailable when nobody knows what was committed."""
        recovered = self._lease.recovered
        while True:
            self._state = fold(await self._tools.leases.read(self._lease))
            self._entry = Entry()
            if recovered:
                self._add(RunRecovered(self._lease.owner, self._lease.epoch))
            try:
                if self._lease.idle_leases >= _STUCK:
                    self._add(RunFailed("RUN_STUCK", f"{self._lease.idle_leases} workers could not advance the run"))
                    await self._commit()
                    return None
                return await self._advance()
            except SettledMeanwhile:
                recovered = False  # somebody decided as the approval ran out: begin anew, with the decision

    async def _advance(self) -> None:
        definition = await self._definition()
        if definition is None:
            self._add(RunFailed("DEFINITION_UNREADABLE", "the agent's definition cannot be read by this worker"))
            await self._commit()
            return
        beginning = Beginning(definition, self._tools.evaluator)
        asked = True
        while True:
            if asked:
                await self._take_inbox()
                asked = False
            action = decide(self._state, definition, self._lease.now())
            match action:
                case Append(events=events):
                    self._add(*events)
                case Begin(step=step):
                    if not await self._begin(beginning, step):
                        return
                case Ask(step=step, arguments=arguments, proposer=proposer, reason=reason):
                    schema = await self._schema(step)
                    request = beginning.ask(self._state, step, arguments, proposer, self._lease.now(), reason)
                    self._entry.schemas[request.approval_id] = schema
                    self._add(request)
                case Perform():
                    asked = await self._commit() or await self._perform(definition, action)
                case Conclude():
                    self._add(await beginning.conclude(self._state))
                case Park(waiting=waiting, until=until):
                    self._add(waiting)
                    self._tools.crash.passing("before-park")
                    await self._commit(park=(waiting.state, until))
                    self._tools.crash.passing("after-park")
                    return
                case Ended():
                    await self._commit()
                    self._count_end()
                    return

    async def _begin(self, beginning: Beginning, step: Step) -> bool:
        """Begin the step. False: the run was parked, for a service that is needed for it is away."""
        tool: ToolDescription | None = None
        if isinstance(step.call, ToolCall):
            try:
                tool = await self._describe(step.call.name)
            except SlipwayError as error:
                if error.kind in (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE_EXCEEDED):
                    until = self._lease.now() + timedelta(seconds=_PEER_AWAY)
                    self._add(RunWaiting("WAITING_TIMER", until))
                    await self._commit(park=("WAITING_TIMER", until))
                    return False
                failure = failure_of(error)
                self._add(failed(step, failure.code, failure.message))
                if failure.fatal:
                    self._add(RunFailed(failure.code, failure.message, step.step_id))
                return True
        begun = await beginning.begin(self._state, step, tool, self._lease.now())
        for event in begun.events:
            if isinstance(event, ApprovalRequested):
                self._entry.schemas[event.approval_id] = begun.approval_schema
        self._add(*begun.events)
        return True

    async def _perform(self, definition: Definition, action: Perform) -> bool:
        """Perform the attempt. True: it was broken off because the inbox goes first."""
        self._tools.crash.passing("before-effect")
        step_id, attempt = action.step.step_id, action.attempt

        async def stream(offset: int, text: str) -> None:
            delta = {"step_id": step_id, "attempt": attempt, "offset": offset, "text": text}
            self._tools.announcer.say(run_channel(self._lease.run.run_id), {"delta": delta})

        async def cancelled() -> bool:
            return any(item.kind == "cancel" for item in await self._tools.leases.inbox(self._lease))

        outcome = await self._tools.performer.perform(
            self._lease, self._state, definition, action, self._token, self._nudge, cancelled, stream
        )
        self._tools.crash.passing("after-effect")
        if isinstance(outcome, Asked):
            return True
        # Committed together with the next intent: one transaction a step.
        self._add(*outcome)
        return False

    async def _take_inbox(self) -> None:
        for item in await self._tools.leases.inbox(self._lease):
            if item.id in self._entry.consumed:
                continue
            self._entry.consumed.append(item.id)
            event, decision = self._inbox.event(self._lease.run, self._state, item)
            if decision is not None:
                self._entry.policy = decision
            if event is not None and self._state.ended is None:
                self._add(event)

    async def _commit(self, park: tuple[str, datetime] | None = None) -> bool:
        entry = self._entry
        if not entry.events and not entry.consumed and park is None:
            return False
        kinds = {event.kind for _, event in entry.events}
        crash = self._tools.crash
        if kinds & _INTENTS:
            crash.passing("before-intent")
        if kinds & _RESULTS:
            crash.passing("before-result")
        asked = await self._tools.leases.commit(self._lease, entry, self._state.totals, park=park)
        if kinds & _INTENTS:
            crash.passing("after-intent")
        if kinds & _RESULTS:
            crash.passing("after-result-commit")
        self._entry = Entry()
        self._tools.announcer.say(run_channel(self._lease.run.run_id), {"seq": self._lease.head.seq})
        return asked

    def _add(self, *events: Event) -> None:
        for event in events:
            now = self._lease.now()
            self._entry.events.append((now, event))
            self._state = apply(self._state, now, event)

    def _count_end(self) -> None:
        if self._state.ended is not None:
            outcome = self._state.ended.kind.removeprefix("run.")
            ENDED.labels(outcome).inc()
            _log.info("run.ended", run_id=self._lease.run.run_id, outcome=outcome)

    async def _definition(self) -> Definition | None:
        return await self._tools.sources.definition(self._lease.run)

    async def _token(self) -> str:
        return await self._tools.sources.token(self._lease.run)

    async def _describe(self, name: str) -> ToolDescription:
        if name not in self._described:
            await self._commit()  # a result does not wait for another service
            self._described[name] = await self._tools.peers.describe_tool(name, await self._token())
        return self._described[name]

    async def _schema(self, step: Step) -> str:
        if not isinstance(step.call, ToolCall):
            return ""
        return json.dumps(dict((await self._describe(step.call.name)).input_schema))
