"""A worker without I/O: drives the pure core with outcomes that a test draws, and may lose what it did not commit."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from slipway_orchestrator.core import actions as core
from slipway_orchestrator.core.definition import (
    AgentCall,
    Approval,
    Arm,
    Branch,
    Definition,
    Gate,
    Limits,
    Map,
    Parallel,
    Retry,
    SetValue,
    Step,
    ToolCall,
    Wait,
)
from slipway_orchestrator.core.events import (
    ApprovalDecided,
    ApprovalRequested,
    Event,
    RunStarted,
    RunSucceeded,
    SignalReceived,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepUncertain,
    Usage,
)
from slipway_orchestrator.core.outcomes import failed
from slipway_orchestrator.core.state import FINISHED, Phase, RunState, fold
from slipway_orchestrator.core.workflow.decider import Workflow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(10_000, 100_000, Decimal(1), 86400.0 * 365, 500, 500)
GATE = Gate(("role:approver",), expires=3600.0)
ONCE = Retry(1, 1, 1, None)


def definition(steps: Sequence[Step], limits: Limits = LIMITS, **more: Any) -> Definition:
    return Definition("a", "", {}, {}, {}, limits, None, tuple(steps), {}, **more)


def step(name: str, call: Any, on_error: str = "fail", attempts: int = 2) -> Step:
    return Step(name, call, None, Retry(attempts, 1, 10, None), on_error, 10)


def tool(name: str, *, gate: Gate | None = None, attempts: int = 2, on_error: str = "fail") -> Step:
    return step(name, ToolCall("t", {}, gate), on_error, attempts)


def started(**more: Any) -> RunStarted:
    return RunStarted("a", 1, "sha256:0", "alice", {}, {}, **more)


LEAVES = ("set", "tool", "gated", "approval", "wait", "signal", "agent")


@st.composite
def trees(draw: Any, depth: int = 2, most: int = 5) -> tuple[Step, ...]:
    """Steps within steps, with unique ids."""
    names = iter(f"s{n}" for n in range(10_000))

    def sequence(level: int) -> tuple[Step, ...]:
        count = draw(st.integers(1, most if level == 0 else 3))
        steps = [one(level) for _ in range(count)]
        # Some go on at a later step of their sequence when they fail.
        for position, found in enumerate(steps[:-1]):
            if found.on_error == "continue" and draw(st.booleans()):
                handler = draw(st.sampled_from(steps[position + 1 :])).step_id
                steps[position] = Step(
                    found.step_id, found.call, None, found.retry, handler, found.timeout, found.named
                )
        return tuple(steps)

    def one(level: int) -> Step:
        name = next(names)
        kinds = [*LEAVES, "parallel", "map", "branch"] if level < depth else list(LEAVES)
        lenient = "continue" if draw(st.booleans()) else "fail"
        match draw(st.sampled_from(kinds)):
            case "set":
                return step(name, SetValue(1))
            case "tool":
                on_error = draw(st.sampled_from([lenient, "continue", "escalate"]))
                return tool(name, attempts=draw(st.integers(1, 2)), on_error=on_error)
            case "gated":
                return tool(name, gate=GATE, on_error=lenient)
            case "approval":
                return step(name, Approval("x", GATE), lenient)
            case "wait":
                return step(name, Wait(60.0, None, None, None))
            case "signal":
                return step(name, Wait(None, None, draw(st.sampled_from(["go", "stop"])), 3600.0), lenient)
            case "agent":
                return step(name, AgentCall("b", {}, 0), lenient)
            case "parallel":
                return step(name, Parallel(tuple(one(level + 1) for _ in range(draw(st.integers(1, 3))))), lenient)
            case "map":
                call = Map([1], "item", draw(st.integers(1, 3)), sequence(level + 1))
                return step(name, call, lenient)
            case _:
                arms = tuple(Arm("x", sequence(level + 1)) for _ in range(draw(st.integers(1, 2))))
                return step(name, Branch(arms), lenient)

    return sequence(0)


class Driver:
    """One run. `state` is kept along, as a worker keeps it; `fresh` is folded from the journal."""

    def __init__(self, steps: Sequence[Step], data: Any) -> None:
        self.definition = definition(steps)
        self.steps = {found.step_id: found for found in self.definition.walk()}
        self.decider = Workflow(self.definition)
        self.data = data
        self.journal: list[tuple[datetime, Event]] = []
        self.state = RunState()
        self.now = NOW
        self.performed: dict[str, int] = {}
        self.asked = 0
        self.write(started())

    @property
    def fresh(self) -> RunState:
        return fold(self.journal)

    def draw(self, strategy: Any) -> Any:
        return self.data.draw(strategy)

    def write(self, *events: Event) -> None:
        rows = [(self.now, event) for event in events]
        self.journal += rows
        fold(rows, self.state)

    def decide(self) -> tuple[core.Action, ...]:
        """What comes next: the same for a worker that has come so far, and for one that takes over."""
        actions = self.decider.decide(self.state, self.now)
        assert actions == self.decider.decide(self.fresh, self.now)
        assert actions == self.decider.decide(self.state, self.now)
        return actions

    def act(self) -> None:
        """Act on what may go on, in part: some attempts take longer."""
        moved = False
        actions = self.decide()
        performs = [action for action in actions if isinstance(action, core.Perform)]
        ending = set[str]()
        if performs:
            count = self.draw(st.integers(1, len(performs)))
            ending = {performs[(self.draw(st.integers(0, 100)) + n) % len(performs)].at.key for n in range(count)}
        for action in actions:
            if isinstance(action, core.Perform) and action.at.key not in ending:
                continue
            if isinstance(action, core.Park):
                if not moved:
                    self.wake(action.until)
                continue
            moved = True
            self.one(action)
            if isinstance(action, core.Begin) and self.state.steps[action.at.key].phase is Phase.FAILED:
                return  # nothing else begins

    def one(self, action: core.Action) -> None:
        match action:
            case core.Append(events=events):
                self.write(*events)
            case core.Begin(at=at):
                self.write(*self.begin(at))
            case core.Ask(at=at, arguments=arguments, proposer=proposer, escalation=escalation):
                self.write(self.ask(at, arguments, proposer, escalation))
            case core.Spawn(at=at, attempt=attempt, occurrence=occurrence, input=value):
                self.write(self.spawn(at, attempt, occurrence, value))
            case core.Perform():
                known = self.state.steps[action.at.key]
                assert known.phase is Phase.STARTED
                key = f"{action.at.key}/{action.attempt}"
                self.performed[key] = self.performed.get(key, 0) + 1
                self.write(self.outcome(action))
            case core.Conclude():
                self.write(RunSucceeded({}))
            case _:
                assert isinstance(action, core.Stop | core.Ended)

    def begin(self, at: core.Instance) -> list[Event]:
        known = self.state.steps.get(at.key)
        assert known is None or known.phase is Phase.DECIDED
        if self.draw(st.integers(0, 6)) == 0:
            return [StepSkipped(at.key, at.step.type)]
        intent = StepStarted(at.key, at.step.type, 1, None)
        match at.step.call:
            case SetValue():
                return [intent, StepCompleted(at.key, at.step.type, 1, attempt=1)]
            case Approval():
                return [StepStarted(at.key, at.step.type, 1, {}), self.ask(at, {}, "alice")]
            case ToolCall(gate=gate) if gate is not None:
                return [self.ask(at, {"x": 1}, "alice")]
            case ToolCall():
                if self.draw(st.integers(0, 9)) == 0:
                    return [failed(at, 0, "INVALID_ARGUMENTS", "x", escalate=True)]
                return [StepStarted(at.key, at.step.type, 1, {"tool": "t", "arguments": {}})]
            case Wait(signal=None):
                return [StepStarted(at.key, at.step.type, 1, {"for": 60}, until=self.now + timedelta(seconds=60))]
            case Wait(signal=signal):
                until = self.now + timedelta(hours=1)
                return [StepStarted(at.key, at.step.type, 1, {"signal": signal}, until=until)]
            case AgentCall():
                return [self.spawn(at, 1, 1, {})]
            case Map():
                return [StepStarted(at.key, at.step.type, 1, {"count": self.draw(st.integers(0, 4))})]
            case Branch(arms=arms):
                taken = self.draw(st.sampled_from([None, *range(len(arms))]))
                return [StepStarted(at.key, at.step.type, 1, {"taken": taken})]
            case _:
                return [intent]

    def spawn(self, at: core.Instance, attempt: int, occurrence: int, value: Any) -> Event:
        child = f"run_{at.key}_{attempt}"
        return StepStarted(at.key, at.step.type, attempt, value, occurrence, child_run_id=child)

    def ask(self, at: core.Instance, arguments: Any, proposer: str, escalation: bool = False) -> ApprovalRequested:
        self.asked += 1
        return ApprovalRequested(
            at.key,
            f"apr_{self.asked}",
            arguments,
            f"digest{self.asked}",
            GATE.approvers,
            proposer,
            self.now + timedelta(hours=1),
            escalation=escalation,
        )

    def outcome(self, action: core.Perform) -> Event:
        at, attempt = action.at, action.attempt
        drawn = self.draw(st.integers(0, 6))
        if drawn > 3:
            return StepCompleted(at.key, at.step.type, {"n": attempt}, attempt, usage=Usage(1, 2))
        if drawn == 0:
            return StepUncertain(at.key, at.step.type, attempt, "EFFECT_UNCERTAIN", "x")
        if attempt < at.step.retry.attempts:
            retry_at = self.now + timedelta(seconds=1)
            return StepRetrying(at.key, at.step.type, attempt, "X", "x", retry_at, tool_error=True)
        return failed(at, attempt, "X", "x", escalate=True, more={"tool_error": True})

    def wake(self, until: datetime) -> None:
        """Somebody does something for a run that waits, or its time comes."""
        options: list[Any] = [None]
        for key, known in self.state.steps.items():
            if known.phase is Phase.GATED and known.approval is not None:
                options.append(known.approval)
            elif known.phase is Phase.STARTED and known.child_run_id is not None:
                options.append(key)
        options += ["go", "stop"]
        chosen = self.draw(st.sampled_from(options))
        if isinstance(chosen, ApprovalRequested):
            self.decided(chosen)
        elif chosen in ("go", "stop"):
            self.write(SignalReceived(chosen, None, "bob"))
        elif chosen is not None:
            self.child_ended(chosen)
        else:
            self.now = max(until, self.now + timedelta(seconds=1))

    def decided(self, asked: ApprovalRequested) -> None:
        decision = self.draw(st.sampled_from(["approve", "approve", "reject", "respond", "edit"]))
        found = self.steps[asked.step_id.partition("[")[0]]
        if decision == "edit" and (not isinstance(found.call, ToolCall) or self.asked > 20):
            decision = "approve"
        if self.asked > 40:
            decision = "respond"
        self.write(
            ApprovalDecided(asked.step_id, asked.approval_id, decision, asked.arguments_digest, "bob", arguments={})
        )

    def child_ended(self, key: str) -> None:
        found, known = self.steps[key.partition("[")[0]], self.state.steps[key]
        at = core.Instance(found, key)
        if self.draw(st.booleans()):
            self.write(StepCompleted(key, found.type, {}, attempt=known.attempt))
        else:
            self.write(failed(at, known.attempt, "CHILD_FAILED", "x"))


def ends_of(journal: Sequence[tuple[datetime, Event]]) -> list[str]:
    """Keys of the steps that ended, as often as they did."""
    ended = (StepCompleted, StepSkipped)
    return [
        event.step_id
        for _, event in journal
        if isinstance(event, ended) or (isinstance(event, StepFailed) and not event.escalated)
    ]


__all__ = ["FINISHED", "Driver", "definition", "ends_of", "started", "step", "tool", "trees"]
