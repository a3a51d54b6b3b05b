"""The pure core, driven by generated worlds: what `fold` and `decide` promise for any run."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from orchestrator_testing.order import check_order
from orchestrator_testing.worlds import GATE, NOW, Driver, definition, ends_of, started, step, tool, trees
from slipway_chassis.errors import ResourceExhausted
from slipway_orchestrator.core import actions as core
from slipway_orchestrator.core.definition import Limits, Map, ModelCall, Parallel, Retry, Step, Wait
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    LimitsRaised,
    RaisedLimits,
    RunPaused,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepStarted,
    StepUncertain,
    Usage,
    decode,
    encode,
    step_of,
)
from slipway_orchestrator.core.retry import Failure, backoff, tries_again
from slipway_orchestrator.core.state import RunState, apply, fold
from slipway_orchestrator.core.workflow.decider import Workflow
from slipway_orchestrator.worker.attempt import within_limits


@given(trees(), st.data())
@settings(max_examples=120, deadline=None)
def test_every_run_ends_and_no_step_ends_twice(steps: tuple[Step, ...], data: Any) -> None:
    driver = Driver(steps, data)
    for _ in range(1500):
        if driver.state.ended is not None:
            break
        driver.act()
    assert driver.state.ended is not None
    ends = ends_of(driver.journal)
    assert len(ends) == len(set(ends))
    assert all(count == 1 for count in driver.performed.values())
    assert driver.state == driver.fresh
    check_order(driver.definition, driver.journal)


@given(trees(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_prefix_of_a_journal_folds_to_a_state_that_can_go_on(steps: tuple[Step, ...], data: Any) -> None:
    driver = Driver(steps, data)
    for _ in range(40):
        driver.act()
    for length in range(1, len(driver.journal) + 1):
        state = fold(driver.journal[:length])
        driver.decider.decide(state, driver.now)
        assert fold(driver.journal[length:], state) == driver.fresh


@given(trees(), st.data())
@settings(max_examples=60, deadline=None)
def test_events_survive_their_json_form_and_unknown_fields_are_skipped(steps: tuple[Step, ...], data: Any) -> None:
    driver = Driver(steps, data)
    for _ in range(40):
        driver.act()
    for _, event in driver.journal:
        written = encode(event)
        assert "step_id" not in written
        assert decode(event.kind, step_of(event), {**written, "of_a_later_version": 1}) == event


def test_a_kind_of_a_later_version_is_skipped() -> None:
    assert decode("step.dreamt", "s", {}) is None


class CrashingWorker(RuleBasedStateMachine):
    """Workers that may die before they commit: the effect happened, its result is lost, the next one asks again."""

    @initialize(data=st.data(), steps=trees())
    def begin(self, data: Any, steps: tuple[Step, ...]) -> None:
        self.driver = Driver(steps, data)

    @rule(data=st.data())
    def act(self, data: Any) -> None:
        self.driver.data = data
        self.driver.act()

    @rule(data=st.data())
    def act_and_die_before_the_commit(self, data: Any) -> None:
        """Another worker takes over: it decides the same, and asks executors under the same keys."""
        driver = self.driver
        driver.data = data
        journal, now, performed = list(driver.journal), driver.now, dict(driver.performed)
        before = driver.decide()
        driver.act()
        driver.journal, driver.now, driver.performed = journal, now, performed
        driver.state = driver.fresh
        assert driver.decide() == before

    @rule()
    def another_worker_takes_over(self) -> None:
        self.driver.state = self.driver.fresh

    @invariant()
    def no_step_ends_twice(self) -> None:
        ends = ends_of(self.driver.journal)
        assert len(ends) == len(set(ends))

    def teardown(self) -> None:
        check_order(self.driver.definition, self.driver.journal)


TestCrashingWorker = CrashingWorker.TestCase
TestCrashingWorker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def decide(state: RunState, *steps: Step, limits: Limits | None = None, now: Any = NOW) -> tuple[core.Action, ...]:
    return Workflow(definition(steps) if limits is None else definition(steps, limits)).decide(state, now)


def test_an_approved_step_runs_with_exactly_the_approved_arguments() -> None:
    gated = tool("s0", gate=GATE)
    state = fold([(NOW, started())])
    asked = ApprovalRequested("s0", "apr_1", {"amount": 1}, "d", ("role:x",), "alice", NOW + timedelta(hours=1))
    state = apply(state, NOW, asked)
    state = apply(state, NOW, ApprovalDecided("s0", "apr_1", "approve", "d", "bob"))
    (action,) = decide(state, gated)
    assert isinstance(action, core.Append)
    (intent,) = action.events
    assert isinstance(intent, StepStarted)
    assert intent.input == {"tool": "t", "arguments": {"amount": 1}}
    assert intent.approval_id == "apr_1"


def test_a_refused_decision_asks_again_with_the_same_arguments_and_proposer() -> None:
    state = fold([(NOW, started())])
    asked = ApprovalRequested("s0", "apr_1", {"amount": 1}, "d", ("role:x",), "alice", NOW + timedelta(hours=1))
    state = apply(state, NOW, asked)
    state = apply(state, NOW, ApprovalDecided("s0", "apr_1", "approve", "d", "bob", refused="POLICY_DENIED"))
    (action,) = decide(state, tool("s0", gate=GATE))
    assert isinstance(action, core.Ask)
    assert (action.arguments, action.proposer) == ({"amount": 1}, "alice")


def test_an_editor_becomes_the_proposer() -> None:
    state = fold([(NOW, started())])
    asked = ApprovalRequested("s0", "apr_1", {"amount": 1}, "d", ("role:x",), "alice", NOW + timedelta(hours=1))
    state = apply(state, NOW, asked)
    state = apply(state, NOW, ApprovalDecided("s0", "apr_1", "edit", "d", "bob", arguments={"amount": 2}))
    (action,) = decide(state, tool("s0", gate=GATE))
    assert isinstance(action, core.Ask)
    assert (action.arguments, action.proposer) == ({"amount": 2}, "bob")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(1, 1000, Decimal(1), 86400.0, 5, 5), "LIMIT_STEPS"),
        (Limits(100, 2, Decimal(1), 86400.0, 5, 5), "LIMIT_TOKENS"),
        (Limits(100, 1000, Decimal("0.01"), 86400.0, 5, 5), "LIMIT_COST"),
        (Limits(100, 1000, Decimal(1), 60.0, 5, 5), "LIMIT_WALL_TIME"),
        (Limits(100, 1000, Decimal(1), 86400.0, 1, 5), "LIMIT_TOOL_ERRORS"),
    ],
)
def test_reaching_a_limit_fails_the_run_with_its_reason(limits: Limits, code: str) -> None:
    state = fold([(NOW, started())])
    state = apply(state, NOW, StepStarted("s0", "tool", 1, {"tool": "t", "arguments": {}}))
    retrying = StepRetrying("s0", "tool", 1, "X", "x", NOW, tool_error=code == "LIMIT_TOOL_ERRORS")
    state = apply(state, NOW, retrying)
    if code != "LIMIT_TOOL_ERRORS":
        state = apply(state, NOW, StepCompleted("s0", "model", {}, 2, usage=Usage(2, 1), cost_usd=Decimal("0.02")))
    later = NOW + timedelta(seconds=61)
    (action,) = decide(state, tool("s0"), tool("s1"), limits=limits, now=later)
    assert isinstance(action, core.Append)
    assert action.events[0].code == code  # type: ignore[union-attr]


def _escalated(*, edited: bool = False, uncertain: bool = False) -> core.Action:
    """What becomes of a step that was performed once, when a person approves."""
    at = tool("s0", on_error="escalate", attempts=1)
    value = {"tool": "t", "arguments": {"amount": 1}}
    state = fold([(NOW, started()), (NOW, StepStarted("s0", "tool", 1, value))])
    if uncertain:
        apply(state, NOW, StepUncertain("s0", "tool", 1, "EFFECT_UNCERTAIN", "nobody knows"))
    else:
        apply(state, NOW, StepFailed("s0", "tool", 1, "X", "broken", escalated=True))
    (ask,) = decide(state, at)
    assert isinstance(ask, core.Ask)
    assert (ask.arguments, ask.proposer, ask.escalation) == ({"amount": 1}, "alice", True)
    arguments = {"amount": 2} if edited else ask.arguments
    asked = ApprovalRequested("s0", "apr_1", arguments, "d", (), "bob", NOW + timedelta(hours=1), escalation=True)
    apply(state, NOW, asked)
    apply(state, NOW, ApprovalDecided("s0", "apr_1", "approve", "d", "dave"))
    (action,) = decide(state, at)
    return action


def test_an_approved_repetition_is_the_same_effect_unless_its_arguments_were_edited() -> None:
    value: Any = {"tool": "t", "arguments": {"amount": 1}}
    again = core.Append((StepStarted("s0", "tool", 2, value, 1, "apr_1"),))
    assert _escalated() == again
    assert _escalated(uncertain=True) == again
    other: Any = {"tool": "t", "arguments": {"amount": 2}}
    assert _escalated(edited=True) == core.Append((StepStarted("s0", "tool", 2, other, 2, "apr_1"),))


@pytest.mark.parametrize(
    ("holder", "keys"),
    [
        (step("p", Parallel((tool("a"), tool("b"), tool("c"))), "continue"), ("a", "b")),
        (step("m", Map([], "item", 2, (tool("a"),)), "continue"), ("a[0]", "a[1]")),
        (step("m", Map([], "item", 2, (tool("a"),)), "continue"), ("a[1]", "a[0]")),
    ],
    ids=["parallel", "map", "map, the later one fails"],
)
def test_what_is_under_way_beside_a_failure_is_finished_also_by_another_worker(
    holder: Step, keys: tuple[str, str]
) -> None:
    broken, busy = keys
    value: Any = {"tool": "t", "arguments": {}}
    journal = [(NOW, started()), (NOW, StepStarted(holder.step_id, holder.type, 1, {"count": 3}))]
    journal += [(NOW, StepStarted(key, "tool", 1, value)) for key in sorted(keys)]
    journal.append((NOW, StepFailed(broken, "tool", 1, "X", "broken")))
    state = fold(journal)
    (perform,) = decide(state, holder)
    assert isinstance(perform, core.Perform)
    assert perform.at.key == busy
    apply(state, NOW, StepCompleted(busy, "tool", {}, 1))
    (append,) = decide(state, holder)
    assert isinstance(append, core.Append)
    (failure,) = append.events
    assert isinstance(failure, StepFailed)
    assert (failure.step_id, failure.code, failure.handled) == (holder.step_id, "X", True)


def test_a_signal_is_taken_by_one_step_only_and_in_the_order_in_which_they_came() -> None:
    waits = [step(f"w{n}", Wait(None, None, "go", None)) for n in range(3)]
    state = fold([(NOW, started()), (NOW, StepStarted("p", "parallel", 1, None))])
    fold([(NOW, StepStarted(f"w{n}", "wait", 1, {"signal": "go"})) for n in range(3)], state)
    all_ = step("p", Parallel(tuple(waits)))
    (park,) = decide(state, all_)
    assert isinstance(park, core.Park)
    for payload in (1, 2):
        apply(state, NOW, SignalReceived("go", payload, "bob"))
    taken: list[Any] = []
    for _ in range(2):
        append = decide(state, all_)[0]
        assert isinstance(append, core.Append)
        (event,) = append.events
        assert isinstance(event, StepCompleted)
        taken.append((event.step_id, event.output))
        apply(state, NOW, event)
    assert taken == [(f"w{n}", {"signal": "go", "payload": payload, "by": "bob"}) for n, payload in enumerate((1, 2))]
    assert not state.signals["go"]
    (park,) = decide(state, all_)
    assert isinstance(park, core.Park)
    assert park.waiting.state == "WAITING_SIGNAL"


def test_a_call_that_costs_too_much_waits_until_the_limit_is_raised() -> None:
    ask = step("s0", ModelCall("x", None, None, "t", "", None, None), attempts=1)
    state = fold([(NOW, started()), (NOW, StepStarted("s0", "model", 1, {"prompt": "x"}))])
    apply(state, NOW, StepRetrying("s0", "model", 1, "LIMIT_COST", "it may cost 2 USD, 1 is left", NOW))
    (action,) = decide(state, ask)
    assert isinstance(action, core.Append)
    (paused,) = action.events
    assert isinstance(paused, RunPaused)
    assert (paused.code, paused.evidence) == ("LIMIT_COST", {"step": "s0"})
    apply(state, NOW, paused)
    (park,) = decide(state, ask)
    assert isinstance(park, core.Park)
    assert park.waiting.state == "PAUSED"
    apply(state, NOW, LimitsRaised("dave", RaisedLimits(cost_usd=Decimal(5))))
    (again,) = decide(state, ask)
    assert again == core.Append((StepStarted("s0", "model", 2, {"prompt": "x"}),))


@pytest.mark.parametrize(
    ("reason", "budget", "on_limit", "expected"),
    [
        ("MAX_COST_EXCEEDED", "", "pause", ("LIMIT_COST", False, True)),
        ("MAX_COST_EXCEEDED", "", "fail", ("LIMIT_COST", True, False)),
        ("BUDGET_EXHAUSTED", "", "pause", ("LIMIT_COST", False, True)),
        ("BUDGET_EXHAUSTED", "team", "pause", ("BUDGET_EXHAUSTED", False, False)),
        ("MODEL_UNKNOWN", "", "pause", ("MODEL_UNKNOWN", False, False)),
    ],
)
def test_only_the_runs_own_cost_limit_pauses_it(reason: str, budget: str, on_limit: str, expected: Any) -> None:
    class Refused(ResourceExhausted):
        pass

    Refused.reason = reason
    failure = within_limits(Refused("no", metadata={"budget": budget}), on_limit)
    assert (failure.code, failure.fatal, failure.limit) == expected


def test_back_off_is_exponential_bounded_and_honours_retry_after() -> None:
    retry = Retry(9, 1.0, 30.0, None)
    failure = Failure("X", "UNAVAILABLE", "", True)
    assert [backoff(retry, attempt, failure, 1.0) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff(retry, 1, failure, 0.0) == 0.0
    assert backoff(retry, 1, Failure("X", "", "", True, retry_after=7.0), 0.5) == 7.0


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (Failure("TIMEOUT", "", "", False), True),
        (Failure("PROVIDER_DOWN", "UNAVAILABLE", "", True), True),
        (Failure("EXIT_STATUS", "", "", True), False),
        (Failure("GRANT_REVOKED", "UNAVAILABLE", "", True, fatal=True), False),
        (Failure("EFFECT_UNCERTAIN", "UNAVAILABLE", "", True, uncertain=True), False),
    ],
)
def test_only_declared_codes_are_tried_again_and_never_what_is_fatal_or_uncertain(
    failure: Failure, again: bool
) -> None:
    retry = Retry(3, 1, 10, frozenset({"TIMEOUT", "UNAVAILABLE"}))
    assert tries_again(failure, retry, 1) is again
    assert tries_again(failure, retry, 3) is False
