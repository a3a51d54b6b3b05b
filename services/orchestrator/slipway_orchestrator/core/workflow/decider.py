"""What a workflow does next: a walk over those of its steps that are open.

What is finished is passed by once and then remembered (`RunState.cursors`), so that a decision costs as much as there
are open steps, however many came before. The cursors follow from the journal: a state without them decides the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from slipway_orchestrator.core.actions import (
    Action,
    Append,
    Begin,
    Conclude,
    Ended,
    Instance,
    Park,
    Perform,
    Stop,
    Tree,
)
from slipway_orchestrator.core.definition import Branch, Definition, Limits, Map, Parallel, Step
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    Event,
    RunCancelled,
    RunFailed,
    RunResumed,
    RunWaiting,
    StepCompleted,
)
from slipway_orchestrator.core.limits import (
    Reached,
    allowed_again,
    circling,
    exceeded,
    forbids_start,
    limits_of,
    wall_deadline,
)
from slipway_orchestrator.core.outcomes import failed
from slipway_orchestrator.core.state import CONTAINERS, FINISHED, Phase, RunState, StepState
from slipway_orchestrator.core.workflow.joins import failing_step, output_of
from slipway_orchestrator.core.workflow.leaf import next_of, waits_for

MOST_OPEN = 256
"""Steps of one run that are begun and not finished; more begin as these end."""
PAUSED_UNTIL = datetime(9000, 1, 1, tzinfo=UTC)
"""When a paused run is looked at again if nobody resumes it."""
_RANK = ("WAITING_APPROVAL", "WAITING_SIGNAL", "WAITING_RUN", "WAITING_TIMER")


class Workflow:
    """Decides for the runs of one definition."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._by_id = {step.step_id: step for step in definition.walk()}

    def find(self, state: RunState, step_id: str) -> Step | None:
        """The step of that id, wherever it stands."""
        del state
        return self._by_id.get(step_id)

    def decide(self, state: RunState, now: datetime, tree: Tree | None = None) -> tuple[Action, ...]:
        """Everything that may go on now; a Park comes last. ValueError for a journal without its first event."""
        if state.ended is not None:
            return (Ended(),)
        if state.started is None or state.start_time is None:
            raise ValueError("a journal begins with run.started")
        if state.cancel is not None:
            cancelled = RunCancelled(state.cancel.by, state.cancel.reason)
            return (Stop(state.cancel.force), Append((cancelled,)))
        limits = limits_of(state, self._definition)
        walk = _Walk(self._definition, self.steps(state), state, now, limits, tree)
        if state.paused is not None:
            if allowed_again(state.paused, tree):
                return (Append((RunResumed("orchestrator", "the limits of the tree were raised"),)),)
            return _paused(walk, state)
        if state.fatal is not None:
            return walk.end(RunFailed(state.fatal.code, state.fatal.message, state.fatal.key))
        reached = exceeded(state, limits, now, tree)
        if reached is not None:
            return walk.reached(reached, limits.on_limit == "pause")
        reached = circling(state, self._definition)
        if reached is not None:
            return walk.reached(reached, _on_loop(self._definition) == "pause")
        actions = walk.all()
        return self.end(state) if actions == (Conclude(),) else actions

    def steps(self, state: RunState) -> Sequence[Step]:
        """The steps of a run so far; they may grow at their end."""
        del state
        return self._definition.steps

    def end(self, state: RunState) -> tuple[Action, ...]:
        """What follows when all steps are finished."""
        del state
        return (Conclude(),)


def _on_loop(definition: Definition) -> str:
    return definition.limits.on_limit if definition.loop_detection is None else definition.loop_detection.on


def _paused(walk: "_Walk", state: RunState) -> tuple[Action, ...]:
    """What was begun is finished, unless the run was suspended: then it is stopped, and begun again later."""
    park = Park(RunWaiting("PAUSED"), PAUSED_UNTIL)
    if state.paused is not None and state.paused.code == "SUSPENDED":
        return (Stop(False), park)
    return (*walk.under_way(), park)


@dataclass(frozen=True, slots=True)
class _Failed:
    """The step failed, and so does what it stands in."""

    at: Instance
    error: tuple[str, str]


class _Done:
    """Finished; what comes after it may begin."""


_DONE = _Done()
_Outcome = _Done | _Failed | None
"""None: open."""


@dataclass(slots=True)
class _Items:
    """How far a map has come."""

    next: int = 0
    open: list[int] = field(default_factory=list[int])


class _Walk:
    """One decision."""

    def __init__(
        self,
        definition: Definition,
        steps: Sequence[Step],
        state: RunState,
        now: datetime,
        limits: Limits,
        tree: Tree | None,
    ) -> None:
        self._definition = definition
        self._steps = steps
        self._state = state
        self._now = now
        self._limits = limits
        self._tree = tree
        self._events: list[Event] = []
        self._actions: list[Action] = []
        self._waits: list[tuple[str, datetime | None]] = []
        self._open = 0
        self._begun = 0
        self._draining = False
        self._stopped: Reached | None = None
        self._signals: set[str] = set()
        """Names of which this decision has taken a signal: the next one is for the next decision."""

    def all(self) -> tuple[Action, ...]:
        """Everything that may go on."""
        outcome = self._sequence(self._steps, "", ())
        if isinstance(outcome, _Failed):
            origin = failing_step(self._state, outcome.at)
            return self.end(RunFailed(*outcome.error, origin))
        if self._stopped is not None:
            return self._reached_at_start(self._stopped)
        if isinstance(outcome, _Done):
            return (Conclude(),)
        return self._answer()

    def end(self, *last: Event) -> tuple[Action, ...]:
        """Nothing new begins; when nothing is under way any more, the run ends with these events."""
        performs = self.under_way()
        return performs or (Append(last),)

    def reached(self, reached: Reached, pause: bool) -> tuple[Action, ...]:
        """Pause at once, or fail when nothing is under way any more."""
        return (Append(reached.pause()),) if pause else self.end(*reached.fail())

    def under_way(self) -> tuple[Action, ...]:
        """The attempts that are begun, and nothing else."""
        self._actions.clear()
        self._events.clear()
        self._waits.clear()
        self._draining = True
        self._sequence(self._steps, "", ())
        return tuple(action for action in self._actions if isinstance(action, Perform))

    def _reached_at_start(self, reached: Reached) -> tuple[Action, ...]:
        if self._limits.on_limit == "pause":
            return (Append(reached.pause()),)
        return self.end(*reached.fail())

    def _answer(self) -> tuple[Action, ...]:
        if self._events:
            self._actions.insert(0, Append(tuple(self._events)))
        if self._waits:
            self._actions.append(self._park())
        return tuple(self._actions)

    def _park(self) -> Park:
        state = min((wait for wait, _ in self._waits), key=_RANK.index)
        deadline = wall_deadline(self._state, self._limits)
        times = [until for _, until in self._waits if until is not None]
        first = min(times, default=None)
        if deadline is None:
            return Park(RunWaiting(state, first), first or PAUSED_UNTIL)
        return Park(RunWaiting(state, first), deadline if first is None else min(first, deadline))

    def _sequence(self, steps: Sequence[Step], suffix: str, indices: tuple[int, ...], name: str = "") -> _Outcome:
        """Steps one after the other; `name` is the key under which the way through them is remembered."""
        cursors, states = self._state.cursors, self._state.steps
        position: int = cursors.get(name, 0)
        outcome: _Outcome = _DONE
        while position < len(steps):
            step = steps[position]
            key = step.step_id + suffix
            outcome = self._step(Instance(step, key, indices), suffix)
            if outcome is not _DONE:
                break
            handler = states[key].handler
            position = position + 1 if handler is None else _position(steps, handler, position)
        cursors[name] = position
        return outcome

    def _step(self, at: Instance, suffix: str) -> _Outcome:
        known = self._state.steps.get(at.key)
        if known is None:
            return self._begin(at)
        if known.phase in FINISHED:
            return _DONE
        if known.phase is Phase.FAILED:
            return _Failed(at, known.error or ("INTERNAL", "the step failed"))
        if at.step.type in CONTAINERS and known.phase is Phase.STARTED:
            return self._container(at, known, suffix)
        return self._leaf(at, known)

    def _begin(self, at: Instance) -> _Outcome:
        if self._draining or self._stopped is not None or self._open >= MOST_OPEN:
            return None
        reached = forbids_start(self._state, self._limits, at.step, at.key, self._begun, self._tree)
        if reached is not None:
            self._stopped = reached
            return None
        if at.step.type not in CONTAINERS:
            self._open += 1
            self._begun += 1
        self._actions.append(Begin(at))
        return None

    def _leaf(self, at: Instance, known: StepState) -> _Outcome:
        self._open += 1
        action = next_of(self._state, at, known, self._now)
        if isinstance(action, Append):
            if not self._takes_the_same_signal(action):
                self._events += action.events
        elif action is not None:
            self._actions.append(action)
        else:
            self._waits.append(waits_for(at, known))
        return None

    def _takes_the_same_signal(self, action: Append) -> bool:
        for event in action.events:
            if isinstance(event, StepCompleted) and event.type == "wait" and isinstance(event.output, dict):
                name = str(event.output["signal"])
                if name in self._signals:
                    return True
                self._signals.add(name)
        return False

    def _container(self, at: Instance, known: StepState, suffix: str) -> _Outcome:
        before = len(self._actions), len(self._events), len(self._waits)
        outcome = self._within(at, known, suffix)
        if isinstance(outcome, _Done):
            if not self._draining:
                output = output_of(self._state, at, known)
                if output is None:
                    too_large = failed(at, 1, "OUTPUT_TOO_LARGE", "the outputs of its steps are too large together")
                    self._events.append(too_large)
                else:
                    self._events.append(
                        StepCompleted(at.key, at.step.type, output.value, attempt=1, tainted=output.tainted or None)
                    )
        elif isinstance(outcome, _Failed):
            if self._draining:
                return None
            # Its other steps are given up: what is under way ends, people are not asked any more.
            del self._actions[before[0] :], self._events[before[1] :], self._waits[before[2] :]
            self._draining = True
            self._within(at, known, suffix)
            self._draining = False
            kept = [action for action in self._actions[before[0] :] if isinstance(action, Perform)]
            del self._actions[before[0] :], self._events[before[1] :], self._waits[before[2] :]
            self._actions += kept
            if not kept:
                self._events += (*self._given_up(at), failed(at, 1, *outcome.error))
        return None

    def _within(self, at: Instance, known: StepState, suffix: str) -> _Outcome:
        match at.step.call:
            case Parallel(steps=steps):
                outcomes = [self._sequence((step,), suffix, at.indices, f"{at.key}/{step.step_id}") for step in steps]
                return _worst(outcomes)
            case Branch(arms=arms):
                taken = known.input.get("taken") if isinstance(known.input, dict) else None
                if not isinstance(taken, int):
                    return _DONE
                return self._sequence(arms[taken].steps, suffix, at.indices, at.key)
            case Map() as call:
                return self._map(at, call, known, suffix)
            case other:
                raise TypeError(f"{type(other).__name__} holds no steps")

    def _map(self, at: Instance, call: Map, known: StepState, suffix: str) -> _Outcome:
        count = known.input["count"] if isinstance(known.input, dict) else 0
        count = count if isinstance(count, int) else 0
        items: _Items = self._state.cursors.setdefault(f"{at.key}/items", _Items())
        failure: _Failed | None = None
        still: list[int] = []
        for index in items.open:
            outcome = self._item(at, call, suffix, index)
            if outcome is not _DONE:
                still.append(index)
            if isinstance(outcome, _Failed):
                failure = failure or outcome
        items.open = still
        while items.next < count and len(items.open) < call.concurrency:
            first = f"{call.steps[0].step_id}{suffix}[{items.next}]"
            if (self._draining or failure is not None) and first not in self._state.steps:
                break  # no new item
            outcome = self._item(at, call, suffix, items.next)
            if outcome is not _DONE:
                items.open.append(items.next)
            if isinstance(outcome, _Failed):
                failure = failure or outcome
            items.next += 1
        if failure is not None:
            return failure
        return None if items.open or items.next < count else _DONE

    def _item(self, at: Instance, call: Map, suffix: str, index: int) -> _Outcome:
        return self._sequence(call.steps, f"{suffix}[{index}]", (*at.indices, index), f"{at.key}[{index}]")

    def _given_up(self, at: Instance) -> Iterator[Event]:
        """Nobody is asked any more about what stands within a step that failed."""
        within = Within(at)
        for key, step in self._state.steps.items():
            asked = step.approval
            if step.phase is Phase.GATED and asked is not None and key in within:
                yield ApprovalDecided(key, asked.approval_id, "cancel", asked.arguments_digest, message="given up")


class Within:
    """The keys of all instances of steps within a step."""

    def __init__(self, at: Instance) -> None:
        self._ids = frozenset(step.step_id for step in _steps_within(at.step))
        self._suffix = "".join(f"[{index}]" for index in at.indices)

    def __contains__(self, key: str) -> bool:
        step_id, bracket, rest = key.partition("[")
        return step_id in self._ids and (bracket + rest).startswith(self._suffix)


def _steps_within(step: Step) -> Iterator[Step]:
    for block in step.blocks:
        for child in block:
            yield child
            yield from _steps_within(child)


def _position(steps: Sequence[Step], step_id: str, after: int) -> int:
    for position in range(after + 1, len(steps)):
        if steps[position].step_id == step_id:
            return position
    return after + 1


def _worst(outcomes: list[_Outcome]) -> _Outcome:
    failure = next((outcome for outcome in outcomes if isinstance(outcome, _Failed)), None)
    if failure is not None:
        return failure
    return _DONE if all(outcome is _DONE for outcome in outcomes) else None
