"""What a journal must look like, told from the definition alone: an oracle that knows nothing of how it is decided."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from slipway_orchestrator.core.definition import Branch, Definition, Map, Parallel, Step
from slipway_orchestrator.core.events import (
    ApprovalRequested,
    Event,
    RunFailed,
    RunSucceeded,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepUncertain,
)

_CONTAINERS = (Parallel, Map, Branch)


@dataclass(frozen=True)
class _Place:
    """Where a step stands: its sequence, its position, and the step that holds the sequence."""

    steps: tuple[Step, ...]
    position: int
    holder: Step | None
    depth: int
    """Maps around it."""


class Order:
    """Reads a journal event by event, and asserts that each may come then."""

    def __init__(self, definition: Definition) -> None:
        self._root = definition.steps
        self._places: dict[str, _Place] = {}
        self._steps = {step.step_id: step for step in definition.walk()}
        self._index(definition.steps, None, 0)
        self._begun: set[str] = set()
        self._ended: dict[str, Event] = {}
        self._inputs: dict[str, object] = {}
        self._broken: set[str] = set()
        """Keys of holders within which something has failed: nothing begins there any more."""
        self._under_way: set[str] = set()
        """Keys of steps of which an attempt is begun and has not come to anything."""
        self._signals: Counter[str] = Counter()

    def _index(self, steps: tuple[Step, ...], holder: Step | None, depth: int) -> None:
        for position, step in enumerate(steps):
            self._places[step.step_id] = _Place(steps, position, holder, depth)
            inner = depth + isinstance(step.call, Map)
            for block in step.blocks:
                self._index(block, step, inner)

    def read(self, events: Sequence[tuple[datetime, Event]]) -> None:
        for _, event in events:
            self._attempt(event)
            match event:
                case StepStarted(step_id=key) | ApprovalRequested(step_id=key) | StepSkipped(step_id=key):
                    self._begin(key)
                    if isinstance(event, StepStarted):
                        self._inputs[key] = event.input
                    if isinstance(event, StepSkipped):
                        self._ended[key] = event
                case StepFailed(step_id=key, escalated=escalated):
                    self._begin(key)
                    if not escalated:
                        self._fail(key, event)
                case StepCompleted(step_id=key):
                    assert key in self._begun, key
                    self._check_inner(key)
                    self._ended[key] = event
                case RunSucceeded():
                    assert self._is_done(self._root, "")
                case RunFailed():
                    assert not self._under_way, f"{self._under_way} are under way when the run fails"
                case SignalReceived(name=name):
                    self._signals[name] += 1
                case _:
                    pass

    def _attempt(self, event: Event) -> None:
        match event:
            case StepStarted(step_id=key, type="tool"):
                assert key not in self._under_way, f"{key} is begun twice at once"
                self._under_way.add(key)
            case StepCompleted() | StepFailed() | StepRetrying() | StepUncertain():
                self._under_way.discard(event.step_id)
            case _:
                pass
        if isinstance(event, StepCompleted) and event.type == "wait" and isinstance(event.output, dict):
            name = str(event.output["signal"])
            self._signals[name] -= 1
            assert self._signals[name] >= 0, f"a signal {name} is taken twice"

    def _begin(self, key: str) -> None:
        assert key not in self._ended, f"{key} has ended"
        if key in self._begun:
            return
        step_id, _, _ = key.partition("[")
        place, suffix = self._places[step_id], key.removeprefix(step_id)
        assert self._is_reached(place, suffix), f"{key} begins before what it follows has ended"
        if place.holder is not None:
            self._check_holder(key, place, suffix)
        self._begun.add(key)

    def _check_holder(self, key: str, place: _Place, suffix: str) -> None:
        holder = place.holder
        assert holder is not None
        outer = suffix[: suffix.rindex("[")] if isinstance(holder.call, Map) else suffix
        above = holder.step_id + outer
        assert above in self._begun, f"{key} begins before {above}"
        assert above not in self._ended, f"{key} begins after {above} has ended"
        assert not any(within in self._broken for within in self._holders(place, suffix)), (
            f"{key} begins after a failure"
        )
        value = self._inputs[above]
        if isinstance(holder.call, Branch):
            assert isinstance(value, dict)
            assert place.steps == holder.call.arms[value["taken"]].steps, f"{key} is in another arm"
        if isinstance(holder.call, Map):
            assert isinstance(value, dict)
            index = int(suffix[suffix.rindex("[") + 1 : -1])
            assert index < value["count"]
            others = [f"{outer}[{n}]" for n in range(value["count"]) if n != index]
            under_way = [item for item in others if self._is_under_way(holder.call, item)]
            assert len(under_way) < holder.call.concurrency, f"{key} is one item too many"

    def _holders(self, place: _Place, suffix: str) -> list[str]:
        keys: list[str] = []
        while place.holder is not None:
            if isinstance(place.holder.call, Map):
                suffix = suffix[: suffix.rindex("[")]
            keys.append(place.holder.step_id + suffix)
            place = self._places[place.holder.step_id]
        return keys

    def _holders_of(self, key: str) -> list[str]:
        step_id, _, _ = key.partition("[")
        return self._holders(self._places[step_id], key.removeprefix(step_id))

    def _is_under_way(self, call: Map, suffix: str) -> bool:
        return call.steps[0].step_id + suffix in self._begun and not self._is_done(call.steps, suffix)

    def _fail(self, key: str, event: StepFailed) -> None:
        step_id, _, _ = key.partition("[")
        step = self._steps[step_id]
        if isinstance(step.call, _CONTAINERS):
            assert key in self._broken, f"{key} fails, but nothing in it has"
            within = {other for other in self._under_way if key in self._holders_of(other)}
            assert not within, f"{within} are under way when {key} fails"
        self._ended[key] = event
        if not event.handled:
            place, suffix = self._places[step_id], key.removeprefix(step_id)
            for above in self._holders(place, suffix)[:1]:
                self._broken.add(above)

    def _check_inner(self, key: str) -> None:
        """What a step that holds others has in it is finished when it completes."""
        step_id, _, _ = key.partition("[")
        step, suffix = self._steps[step_id], key.removeprefix(step_id)
        value = self._inputs.get(key)
        match step.call:
            case Parallel(steps=steps):
                assert all(self._is_done((child,), suffix) for child in steps)
            case Branch(arms=arms):
                assert isinstance(value, dict)
                taken = value["taken"]
                assert taken is None or self._is_done(arms[taken].steps, suffix)
            case Map(steps=steps):
                assert isinstance(value, dict)
                assert all(self._is_done(steps, f"{suffix}[{n}]") for n in range(value["count"]))
            case _:
                pass

    def _next(self, steps: tuple[Step, ...], suffix: str) -> int:
        """The position at which a sequence stands: that of its first step that has not ended, handlers followed."""
        position = 0
        while position < len(steps):
            ended = self._ended.get(steps[position].step_id + suffix)
            if ended is None or (isinstance(ended, StepFailed) and not ended.handled):
                return position
            if isinstance(ended, StepFailed) and ended.handler is not None:
                position = next(n for n, step in enumerate(steps) if step.step_id == ended.handler)
            else:
                position += 1
        return position

    def _is_done(self, steps: tuple[Step, ...], suffix: str) -> bool:
        return self._next(steps, suffix) == len(steps)

    def _is_reached(self, place: _Place, suffix: str) -> bool:
        if place.holder is not None and isinstance(place.holder.call, Parallel):
            return True
        return self._next(place.steps, suffix) == place.position


def check_order(definition: Definition, journal: Sequence[tuple[datetime, Event]]) -> None:
    """Assert that the journal could come of the definition."""
    Order(definition).read(journal)
