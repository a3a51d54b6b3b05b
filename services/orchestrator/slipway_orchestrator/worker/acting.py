"""Acting on what was decided: events appended, steps begun, attempts started and stopped."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from slipway_chassis.errors import ErrorKind, SlipwayError

from slipway_orchestrator.core.actions import (
    Action,
    Append,
    Ask,
    Begin,
    Conclude,
    Ended,
    Instance,
    Park,
    Perform,
    Spawn,
    Stop,
)
from slipway_orchestrator.core.definition import Definition, ToolCall
from slipway_orchestrator.core.events import ApprovalRequested, RunWaiting
from slipway_orchestrator.core.outcomes import failed
from slipway_orchestrator.core.state import Phase
from slipway_orchestrator.core.workflow.decider import Workflow
from slipway_orchestrator.definitions.catalogue import ToolDescription
from slipway_orchestrator.worker.announcing import run_channel
from slipway_orchestrator.worker.asking import ask
from slipway_orchestrator.worker.attempt import failure_of
from slipway_orchestrator.worker.beginning import Beginning, Calls
from slipway_orchestrator.worker.children import Children
from slipway_orchestrator.worker.held import Held

_PEER_AWAY = 3.0
"""Seconds for which a step waits when a service is away that it needs for its preparation."""


@dataclass(frozen=True, slots=True)
class Done:
    """What acting came to."""

    moved: bool
    """There may be more to decide already."""
    ended: bool = False
    park: Park | None = None
    """What the run waits for, if nothing else is under way."""


class Acting:
    """Acts for one run."""

    def __init__(self, held: Held, definition: Definition, decider: Workflow, beginning: Beginning) -> None:
        self._held = held
        self._definition = definition
        self._beginning = beginning
        self.children = Children(held, definition, decider)
        self._described: dict[str, ToolDescription] = {}
        self._away: dict[str, datetime] = {}
        """Tools whose registry is away, and when to ask again."""

    async def act(self, actions: tuple[Action, ...]) -> Done:
        """Act on all of them, or on as many as hold once the first ones changed the state."""
        park, before = None, self._held.committer.added
        for action in actions:
            match action:
                case Ended():
                    return Done(False, ended=True)
                case Park():
                    park = action
                case _:
                    await self._act(action)
            if isinstance(action, Begin | Spawn) and self._is_stopped(action.at.key):
                break
        return Done(self._held.committer.added > before, park=self._park(park))

    def _is_stopped(self, key: str) -> bool:
        """The step that was begun last has failed, or reached a limit: nothing else begins."""
        state = self._held.state
        known = state.steps.get(key)
        if known is not None and known.phase is Phase.FAILED:
            return True
        return state.paused is not None or state.fatal is not None or state.ended is not None

    async def _act(self, action: Action) -> None:
        match action:
            case Append(events=events):
                for event in events:
                    self._held.add(event)
                    self.children.given_up_by(event)
            case Begin(at=at):
                await self._begin(at)
            case Ask():
                await self._ask(action)
            case Spawn(at=at, attempt=attempt, occurrence=occurrence, input=value, approval_id=approval_id):
                tainted = self._held.state.steps[at.key].input_tainted
                await self.children.spawn(at, value, attempt, occurrence, approval_id, tainted=tainted)
            case Perform():
                self._perform(action)
            case Stop(force=force):
                await self._stop(force)
            case Conclude():
                self._held.add(await self._beginning.conclude(self._held.state))
            case _:
                raise TypeError(f"nobody acts on {type(action).__name__}")

    async def _begin(self, at: Instance) -> None:
        if not await self._prepared(at):
            return
        tool = self._described.get(at.step.call.name) if isinstance(at.step.call, ToolCall) else None
        begun = await self._beginning.begin(self._held.state, at, tool, self._held.lease.now())
        if isinstance(begun, Calls):
            await self.children.spawn(at, begun.input, 1, 1, None, tainted=begun.tainted)
            return
        for event in begun.events:
            if isinstance(event, ApprovalRequested):
                self._held.committer.entry.schemas[event.approval_id] = begun.approval_schema
            self._held.add(event)

    async def _ask(self, action: Ask) -> None:
        at, held = action.at, self._held
        if not await self._prepared(at):
            return
        tool = self._described.get(at.step.call.name) if isinstance(at.step.call, ToolCall) else None
        request = ask(
            self._definition,
            held.state,
            at,
            action.arguments,
            action.proposer,
            held.lease.now(),
            action.reason,
            escalation=action.escalation,
        )
        held.committer.entry.schemas[request.approval_id] = json.dumps(dict(tool.input_schema)) if tool else ""
        held.add(request)

    def _perform(self, action: Perform) -> None:
        held, key = self._held, action.at.key
        if key in held.flights or held.flights.full or not held.is_durable(key):
            return  # it is under way, or begins when something else has ended
        held.tools.crash.passing("before-effect")
        attempt = action.attempt

        async def stream(offset: int, text: str) -> None:
            delta = {"step_id": key, "attempt": attempt, "offset": offset, "text": text}
            held.tools.announcer.say(run_channel(held.lease.run.run_id), {"delta": delta})

        async def token() -> str:
            return await held.tools.sources.token(held.lease.run)

        work = held.tools.performer.perform(held.lease, held.state, self._definition, action, held.tree, token, stream)
        held.flights.start(action, work)

    async def _stop(self, force: bool) -> None:
        """End what is under way. An attempt that was cut short is told as such when the run is to be cancelled."""
        held = self._held
        events, cut = await held.flights.stop(force=force)
        for event in events:
            held.add(event, result=True)
        if held.state.cancel is not None:
            await asyncio.gather(*(self._stop_tool(perform) for perform in cut))
            for perform in cut:
                message = "stopped: the run was cancelled"
                held.add(failed(perform.at, perform.attempt, "CANCELLED", message), result=True)

    async def _stop_tool(self, perform: Perform) -> None:
        """Tools end what they have begun although whoever asked is gone: they must be told to stop."""
        if not isinstance(perform.step.call, ToolCall):
            return
        lease, tools = self._held.lease, self._held.tools
        with suppress(SlipwayError):
            token = await tools.sources.token(lease.run)
            await tools.peers.cancel_tool(lease.run.run_id, perform, lease.epoch, token)

    async def _prepared(self, at: Instance) -> bool:
        """Have the step's tool described. False: not now, or the step failed."""
        call, now = at.step.call, self._held.lease.now()
        if not isinstance(call, ToolCall) or call.name in self._described:
            return True
        if now < self._away.get(call.name, now):
            return False
        try:
            token = await self._held.tools.sources.token(self._held.lease.run)
            self._described[call.name] = await self._held.tools.peers.describe_tool(call.name, token)
        except SlipwayError as error:
            if error.kind in (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE_EXCEEDED):
                self._away[call.name] = now + timedelta(seconds=_PEER_AWAY)
                return False
            failure = failure_of(error)
            event = failed(at, 0, failure.code, failure.message, escalate=True, fatal=failure.fatal)
            self._held.add(event)
            return False
        self._away.pop(call.name, None)
        return True

    def _park(self, park: Park | None) -> Park | None:
        """What the run waits for, and the services that are away."""
        now = self._held.lease.now()
        again = min((time for time in self._away.values() if time > now), default=None)
        if again is None:
            return park
        if park is None:
            return Park(RunWaiting("WAITING_TIMER", again), again)
        return Park(park.waiting, min(park.until, again))
