"""The pure core, driven by generated worlds: what `fold` and `decide` promise for any run."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from slipway_orchestrator.core import decide as core
from slipway_orchestrator.core.definition import (
    Approval,
    Definition,
    Gate,
    Limits,
    Retry,
    SetValue,
    Step,
    ToolCall,
)
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    Event,
    RunStarted,
    RunSucceeded,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepSkipped,
    StepStarted,
    Usage,
    decode,
    encode,
    step_of,
)
from slipway_orchestrator.core.retry import Failure, backoff, tries_again
from slipway_orchestrator.core.state import FINISHED, RunState, apply, fold

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(100, 1000, Decimal(1), 86400.0, 50, 50)
GATE = Gate(("role:approver",), expires=3600.0)


def definition(steps: Sequence[Step], limits: Limits = LIMITS) -> Definition:
    return Definition("a", "", {}, {}, {}, limits, None, tuple(steps), {})


def tool(name: str, *, gate: Gate | None = None, attempts: int = 3, on_error: Any = "fail") -> Step:
    return Step(name, ToolCall("t", {}, gate), None, Retry(attempts, 1, 10, None), on_error, 10)


def started() -> RunStarted:
    return RunStarted("a", 1, "sha256:0", "alice", {}, {})


steps_strategy = st.lists(
    st.tuples(st.sampled_from(["set", "tool", "gated", "approval"]), st.booleans()), min_size=1, max_size=6
).map(
    lambda kinds: [
        {
            "set": Step(f"s{n}", SetValue(1), None, Retry(1, 1, 1, None), "fail", 10),
            "tool": tool(f"s{n}", on_error="continue" if lenient else "fail"),
            "gated": tool(f"s{n}", gate=GATE, on_error="continue" if lenient else "fail"),
            "approval": Step(f"s{n}", Approval("x", GATE), None, Retry(1, 1, 1, None), "fail", 10),
        }[kind]
        for n, (kind, lenient) in enumerate(kinds)
    ]
)


class Driver:
    """A worker without I/O: performs actions with outcomes that the test draws, and may lose what it did not commit."""

    def __init__(self, steps: Sequence[Step], data: Any) -> None:
        self.definition = definition(steps)
        self.data = data
        self.journal: list[tuple[datetime, Event]] = [(NOW, started())]
        self.now = NOW
        self.performed: dict[str, int] = {}
        self.asked = 0

    @property
    def state(self) -> RunState:
        return fold(self.journal)

    def write(self, *events: Event) -> None:
        self.journal += [(self.now, event) for event in events]

    def act(self) -> None:
        action = core.decide(self.state, self.definition, self.now)
        assert action == core.decide(self.state, self.definition, self.now)
        match action:
            case core.Append(events=events):
                self.write(*events)
            case core.Begin(step=step):
                assert step.step_id not in self.state.steps
                self.write(*self.begin(step))
            case core.Ask(step=step, arguments=arguments, proposer=proposer):
                self.write(self.ask(step, arguments, proposer))
            case core.Perform(step=step, attempt=attempt):
                known = self.state.steps[step.step_id]
                assert known.phase not in FINISHED
                key = f"{step.step_id}/{attempt}"
                self.performed[key] = self.performed.get(key, 0) + 1
                self.write(self.outcome(step, attempt))
            case core.Park(waiting=waiting, until=until):
                self.write(waiting)
                self.wake(until)
            case core.Conclude():
                self.write(RunSucceeded({}))
            case core.Ended():
                assert self.state.ended is not None

    def begin(self, step: Step) -> list[Event]:
        if self.data.draw(st.integers(0, 4)) == 0:
            return [StepSkipped(step.step_id, step.type)]
        match step.call:
            case SetValue():
                return [
                    StepStarted(step.step_id, step.type, 1, None),
                    StepCompleted(step.step_id, step.type, 1, attempt=1),
                ]
            case Approval():
                return [StepStarted(step.step_id, step.type, 1, {}), self.ask(step, {}, "alice")]
            case ToolCall(gate=gate) if gate is not None:
                return [self.ask(step, {"x": 1}, "alice")]
            case _:
                return [StepStarted(step.step_id, step.type, 1, {"tool": "t", "arguments": {}})]

    def ask(self, step: Step, arguments: Any, proposer: str) -> ApprovalRequested:
        self.asked += 1
        return ApprovalRequested(
            step.step_id,
            f"apr_{self.asked}",
            arguments,
            f"digest{self.asked}",
            GATE.approvers,
            proposer,
            self.now + timedelta(hours=1),
        )

    def outcome(self, step: Step, attempt: int) -> Event:
        if self.data.draw(st.integers(0, 3)) > 0:
            return StepCompleted(step.step_id, step.type, {"n": attempt}, attempt, usage=Usage(1, 2))
        if attempt < step.retry.attempts:
            retry_at = self.now + timedelta(seconds=1)
            return StepRetrying(step.step_id, step.type, attempt, "X", "x", retry_at, tool_error=True)
        handled = step.on_error == "continue"
        return StepFailed(step.step_id, step.type, attempt, "X", "x", handled=handled, tool_error=True)

    def wake(self, until: datetime) -> None:
        waiting = [s.approval for s in self.state.steps.values() if s.approval and s.decision is None]
        if waiting and self.data.draw(st.integers(0, 3)) > 0:
            asked = waiting[-1]
            decision = self.data.draw(st.sampled_from(["approve", "reject", "respond", "edit"]))
            step = self.definition.step(asked.step_id)
            if decision == "edit" and (isinstance(step.call, Approval) or self.asked > 8):
                decision = "approve"
            self.write(
                ApprovalDecided(asked.step_id, asked.approval_id, decision, asked.arguments_digest, "bob", arguments={})
            )
        else:
            self.now = until


@given(steps_strategy, st.data())
@settings(max_examples=150, deadline=None)
def test_every_run_ends_and_no_committed_step_is_performed_again(steps: list[Step], data: Any) -> None:
    driver = Driver(steps, data)
    for _ in range(400):
        if driver.state.ended is not None:
            break
        driver.act()
    assert driver.state.ended is not None
    completed = [step_of(event) for _, event in driver.journal if isinstance(event, StepCompleted)]
    assert len(completed) == len(set(completed))
    assert all(count == 1 for count in driver.performed.values())


@given(steps_strategy, st.data())
@settings(max_examples=80, deadline=None)
def test_any_prefix_of_a_journal_folds_to_a_state_that_can_go_on(steps: list[Step], data: Any) -> None:
    driver = Driver(steps, data)
    for _ in range(60):
        driver.act()
    for length in range(1, len(driver.journal) + 1):
        prefix = driver.journal[:length]
        state = fold(prefix)
        core.decide(state, driver.definition, driver.now)
        assert fold(driver.journal[length:], state) == fold(driver.journal)


@given(steps_strategy, st.data())
@settings(max_examples=80, deadline=None)
def test_events_survive_their_json_form_and_unknown_fields_are_skipped(steps: list[Step], data: Any) -> None:
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

    @initialize(data=st.data(), steps=steps_strategy)
    def begin(self, data: Any, steps: list[Step]) -> None:
        self.driver = Driver(steps, data)

    @rule(data=st.data())
    def act(self, data: Any) -> None:
        self.driver.data = data
        self.driver.act()

    @rule(data=st.data())
    def act_and_die_before_the_commit(self, data: Any) -> None:
        self.driver.data = data
        before, now, asked = list(self.driver.journal), self.driver.now, self.driver.asked
        action = core.decide(self.driver.state, self.driver.definition, now)
        self.driver.act()
        self.driver.journal, self.driver.now, self.driver.asked = before, now, asked
        again = core.decide(self.driver.state, self.driver.definition, now)
        assert again == action
        if isinstance(action, core.Perform):
            # The next worker asks under the same key and attempt: the executor answers from its record.
            assert isinstance(again, core.Perform)
            assert (again.occurrence, again.attempt, again.input) == (action.occurrence, action.attempt, action.input)

    @invariant()
    def steps_run_in_order_and_finish_once(self) -> None:
        order = [step.step_id for step in self.driver.definition.steps]
        begun: list[str] = []
        finished: set[str] = set()
        for _, event in self.driver.journal:
            step_id = step_of(event)
            if step_id is None:
                continue
            assert step_id not in finished
            if step_id not in begun:
                begun.append(step_id)
            if isinstance(event, StepCompleted | StepSkipped | StepFailed):
                finished.add(step_id)
        assert begun == order[: len(begun)]
        assert finished >= set(begun[:-1])


TestCrashingWorker = CrashingWorker.TestCase
TestCrashingWorker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_approved_step_runs_with_exactly_the_approved_arguments() -> None:
    step = tool("s0", gate=GATE)
    state = fold([(NOW, started())])
    asked = ApprovalRequested("s0", "apr_1", {"amount": 1}, "d", ("role:x",), "alice", NOW + timedelta(hours=1))
    state = apply(state, NOW, asked)
    state = apply(state, NOW, ApprovalDecided("s0", "apr_1", "approve", "d", "bob"))
    action = core.decide(state, definition([step]), NOW)
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
    action = core.decide(state, definition([tool("s0", gate=GATE)]), NOW)
    assert isinstance(action, core.Ask)
    assert (action.arguments, action.proposer) == ({"amount": 1}, "alice")


def test_an_editor_becomes_the_proposer() -> None:
    state = fold([(NOW, started())])
    asked = ApprovalRequested("s0", "apr_1", {"amount": 1}, "d", ("role:x",), "alice", NOW + timedelta(hours=1))
    state = apply(state, NOW, asked)
    state = apply(state, NOW, ApprovalDecided("s0", "apr_1", "edit", "d", "bob", arguments={"amount": 2}))
    action = core.decide(state, definition([tool("s0", gate=GATE)]), NOW)
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
    action = core.decide(state, definition([tool("s0"), tool("s1")], limits), later)
    assert isinstance(action, core.Append)
    assert action.events[0].code == code  # type: ignore[union-attr]


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
