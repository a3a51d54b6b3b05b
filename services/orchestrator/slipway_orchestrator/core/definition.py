"""An agent definition as typed values. Parsing and checking sit in `slipway_orchestrator.definitions`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

if TYPE_CHECKING:
    from slipway_orchestrator.core.loop.agent import Loop
    from slipway_orchestrator.core.loop.conversation import Sent

OnExpiry = Literal["reject", "fail"]
OnLimit = Literal["fail", "pause"]
SessionConcurrency = Literal["refuse", "queue", "interrupt"]
MAX_ITEMS = 10_000
"""Items that one map goes over."""
MAX_DEPTH = 5
"""Runs above a child run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run; reaching one fails or pauses it."""

    steps: int
    tokens: int
    cost_usd: Decimal
    wall_time: float
    """Seconds from the start, waiting included."""
    tool_errors: int
    """Most tool errors in a row."""
    repeats: int
    """Most calls of one tool with the same arguments."""
    on_limit: OnLimit = "fail"


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed attempt is tried again. Exponential back-off with full jitter."""

    attempts: int
    """Attempts in all, the first included."""
    backoff: float
    """Seconds before the second attempt, at most."""
    max_backoff: float
    """Seconds between attempts, at most."""
    on: frozenset[str] | None
    """gRPC code names and tool error codes; None: what the executor itself calls retryable."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Who must approve, and when."""

    approvers: tuple[str, ...]
    """`role:…` or `user:…`."""
    when: str | None = None
    """CEL; None: always."""
    expires: float | None = None
    """Seconds; None: with the run's wall time."""
    on_expiry: OnExpiry = "reject"
    quorum: int = 1
    """How many of them must approve; one of them is enough for everything else."""
    remind: float | None = None
    """Seconds between reminders; None: no reminders."""


@dataclass(frozen=True, slots=True)
class Escalation:
    """Whom the run asks when a step failed that says so, or may or may not have happened."""

    approvers: tuple[str, ...] = ("role:operator", "role:platform-admin")
    expires: float | None = None
    """Seconds; None: with the run's wall time."""
    remind: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """What becomes of a run on a session on which another one runs."""

    concurrency: SessionConcurrency = "queue"


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Where and how many of the agent's runs are advanced."""

    concurrency: int | None = None
    """Most runs of the agent at once, in the tenant; None: no bound."""
    worker_pool: str = ""
    """Label of the workers that take them; empty: those without one."""


@dataclass(frozen=True, slots=True)
class LoopDetection:
    """What becomes of a run that goes round in circles: a cycle of calls, or results that tell nothing new."""

    on: OnLimit
    turns_without_progress: int = 8
    """Results in a row that were all known before."""


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Search a knowledge collection. Output: `{passages}`."""

    collection: str
    query: str
    limit: int
    alpha: float | None
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelCall:
    """Ask a model. Output: `{text, citations, model, finish_reason}`."""

    prompt: str
    system: str | None
    context: str | None
    """Template of the passages (or other JSON) that the answer must rest on."""
    task: str
    model: str
    max_tokens: int | None
    temperature: float | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Invoke a tool. Output: what it answers."""

    name: str
    arguments: JsonValue
    gate: Gate | None


@dataclass(frozen=True, slots=True)
class Approval:
    """Ask a person. Output: `{decision, decider, message, response}`."""

    show: JsonValue
    gate: Gate


@dataclass(frozen=True, slots=True)
class SetValue:
    """A value, journalled like any step. Output: the value."""

    value: JsonValue


@dataclass(frozen=True, slots=True)
class Parallel:
    """Steps at the same time. Output: the output of each by its id, when the step itself has an id."""

    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Map:
    """The same steps for each item of a list, a bounded number at the same time. Output: the last step's outputs."""

    over: JsonValue
    """Template of the list, or the list."""
    name: str
    """Name of the item in expressions; its position is `index`."""
    concurrency: int
    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """Steps that run when the condition holds."""

    when: str | None
    """CEL; None: in any case."""
    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """The first arm whose condition holds. Output: `{taken}`, its number from 0, or null."""

    arms: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class AgentCall:
    """A run of another agent. Output: what that run comes to."""

    name: str
    input: JsonValue
    version: int
    """0: the one in production when the step begins."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Time passes, or somebody signals. Output: `{signal, payload, by}` of a signal, else null."""

    seconds: float | None
    until: str | None
    """Template of a time (RFC 3339)."""
    signal: str | None
    expires: float | None
    """Seconds after which a wait for a signal fails; None: with the run's wall time."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of a loop: the model answers, or asks for calls. Output: `{text, tool_calls, model, finish_reason}`."""

    number: int
    sent: "Sent"
    """The conversation that the model is sent."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The beginning of a loop's conversation is summed up by the model. Output: `{text}`."""

    through: int
    """Position of the first message that the summary leaves as it is."""
    text: str
    """What is to be summed up."""


@dataclass(frozen=True, slots=True)
class History:
    """What was said on the run's session before. Output: `{messages}`."""


@dataclass(frozen=True, slots=True)
class Remember:
    """What was asked and answered is added to the run's session. Output: `{added}`."""

    messages: tuple[Mapping[str, JsonValue], ...]


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call of a model that cannot be made: the model is told why."""

    code: str
    message: str


Call = (
    Retrieve
    | ModelCall
    | ToolCall
    | Approval
    | SetValue
    | Parallel
    | Map
    | Branch
    | AgentCall
    | Wait
    | Turn
    | Summary
    | History
    | Remember
    | RefusedCall
)

STEP_TYPES: Mapping[type, str] = {
    Retrieve: "retrieve",
    ModelCall: "model",
    ToolCall: "tool",
    Approval: "approval",
    SetValue: "set",
    Parallel: "parallel",
    Map: "map",
    Branch: "branch",
    AgentCall: "agent",
    Wait: "wait",
    Turn: "model",
    Summary: "summary",
    History: "history",
    Remember: "remember",
    RefusedCall: "tool",
}
ASKS_MODEL = (ModelCall, Turn, Summary)
"""Steps that use tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a workflow."""

    step_id: str
    call: Call
    when: str | None
    retry: Retry
    on_error: str
    """`fail`, `continue`, `escalate`, or the id of a later step of the same sequence."""
    timeout: float
    """Seconds that one attempt may take."""
    named: bool = True
    """Whether the definition gives it its id."""
    literal: bool = False
    """Its values are as a model gave them: nothing in them is an expression."""

    @property
    def type(self) -> str:
        """The step's type as definitions call it."""
        return STEP_TYPES[type(self.call)]

    @property
    def handler(self) -> str | None:
        """Where a run goes on when this step fails, if not at the next step."""
        return None if self.on_error in ("fail", "continue", "escalate") else self.on_error

    @property
    def blocks(self) -> "tuple[tuple[Step, ...], ...]":
        """The sequences of steps within it; a parallel step's children are sequences of one."""
        match self.call:
            case Parallel(steps=steps):
                return tuple((step,) for step in steps)
            case Map(steps=steps):
                return (steps,)
            case Branch(arms=arms):
                return tuple(arm.steps for arm in arms)
            case _:
                return ()


@dataclass(frozen=True, slots=True)
class Definition:
    """An agent: a workflow of `steps` that come to `result`, or a `loop`."""

    name: str
    description: str
    labels: Mapping[str, str]
    input_schema: Mapping[str, JsonValue]
    output_schema: Mapping[str, JsonValue]
    limits: Limits
    regions: tuple[str, ...] | None
    """Regions that models, data and tools must be in; None: no demand."""
    steps: tuple[Step, ...]
    result: JsonValue
    escalation: Escalation = Escalation()
    session: Session = Session()
    scheduling: Scheduling = Scheduling()
    loop_detection: LoopDetection | None = None
    """None: as `on_limit`, and no more than the type of agent always looks for."""
    loop: "Loop | None" = None
    """None: a workflow."""

    def walk(self) -> Iterator[Step]:
        """All steps, each before those within it, in the order of the text."""
        return _walk(self.steps)

    def calls(self) -> Iterator[tuple[str, int]]:
        """Name and version of each agent that it calls; 0: the one in production."""
        for step in self.walk():
            if isinstance(step.call, AgentCall):
                yield step.call.name, step.call.version
        for agent in () if self.loop is None else self.loop.agents:
            yield agent.name, agent.version

    def step(self, step_id: str) -> Step:
        """The step of that id, wherever it stands; KeyError when there is none."""
        for step in self.walk():
            if step.step_id == step_id:
                return step
        raise KeyError(step_id)

    @property
    def journal_version(self) -> int:
        """The version of the journal that a worker must know to run this: 1 if release 1 could read it."""
        plain = (
            self.loop is None
            and self.limits.on_limit == "fail"
            and self.loop_detection is None
            and self.escalation == Escalation()
            and self.session == Session()
            and self.scheduling == Scheduling()
        )
        return 1 if plain and not any(_since_2(step) for step in self.walk()) else 2


def _since_2(step: Step) -> bool:
    if isinstance(step.call, Parallel | Map | Branch | AgentCall | Wait) or step.on_error not in ("fail", "continue"):
        return True
    gate = step.call.gate if isinstance(step.call, ToolCall | Approval) else None
    return gate is not None and (gate.quorum > 1 or gate.remind is not None)


def _walk(steps: tuple[Step, ...]) -> Iterator[Step]:
    for step in steps:
        yield step
        for block in step.blocks:
            yield from _walk(block)
