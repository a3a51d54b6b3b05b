"""The cost of a step does not grow with the run: counted in calls of functions, which no busy machine changes."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from orchestrator_testing.worlds import definition, started, step
from slipway_orchestrator.core.actions import Append, Begin, Conclude
from slipway_orchestrator.core.definition import Definition, Map, SetValue, Step
from slipway_orchestrator.core.events import Event, StepCompleted, StepStarted
from slipway_orchestrator.core.state import RunState, apply
from slipway_orchestrator.core.workflow.decider import Workflow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = 2000


def _calls(work: Callable[[], Any]) -> int:
    """How many functions are called."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def _turns(found: Definition) -> Iterator[int]:
    """Calls of each decision and of folding what it leads to, until the run is over."""
    decider, state = Workflow(found), RunState()
    apply(state, NOW, started())
    while True:
        over = False

        def turn() -> None:
            nonlocal over
            for action in decider.decide(state, NOW):
                events: tuple[Event, ...] = ()
                match action:
                    case Append(events=events):
                        pass
                    case Begin(at=at) if isinstance(at.step.call, Map):
                        events = (StepStarted(at.key, "map", 1, {"count": STEPS}),)
                    case Begin(at=at):
                        events = (StepStarted(at.key, "set", 1, None), StepCompleted(at.key, "set", 1, attempt=1))
                    case Conclude():
                        over = True
                    case _:
                        raise AssertionError(action)
                for event in events:
                    apply(state, NOW, event)

        calls = _calls(turn)
        if over:
            return
        yield calls


def _sets(prefix: str, count: int) -> list[Step]:
    return [step(f"{prefix}{n}", SetValue(1)) for n in range(count)]


@pytest.mark.parametrize(
    "found",
    [
        definition(_sets("s", STEPS)),
        definition([step("m", Map([], "item", 1, tuple(_sets("s", 1))))]),
        definition([step("m", Map([], "item", 8, tuple(_sets("s", 2))))]),
    ],
    ids=["steps one after the other", "a map, one by one", "a map, eight at a time"],
)
def test_the_last_steps_of_a_long_run_cost_as_much_as_the_first(found: Definition) -> None:
    turns = list(_turns(found))
    tenth = len(turns) // 10
    first, last = sum(turns[5 : tenth + 5]), sum(turns[-tenth - 5 : -5])
    assert last <= 1.2 * first, (first, last)
