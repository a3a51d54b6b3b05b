"""An agent definition as typed values. Parsing and checking sit in `slipway_orchestrator.definitions`."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from pydantic import JsonValue

OnExpiry = Literal["reject", "fail"]
OnError = Literal["fail", "continue"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one run; reaching one fails it."""

    steps: int
    tokens: int
    cost_usd: Decimal
    wall_time: float
    """Seconds from the start, waiting included."""
    tool_errors: int
    """Most tool errors in a row."""
    repeats: int
    """Most calls of one tool with the same arguments."""


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


Call = Retrieve | ModelCall | ToolCall | Approval | SetValue

STEP_TYPES: Mapping[type, str] = {
    Retrieve: "retrieve",
    ModelCall: "model",
    ToolCall: "tool",
    Approval: "approval",
    SetValue: "set",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a workflow."""

    step_id: str
    call: Call
    when: str | None
    retry: Retry
    on_error: OnError
    timeout: float
    """Seconds that one attempt may take."""

    @property
    def type(self) -> str:
        """The step's type as definitions call it."""
        return STEP_TYPES[type(self.call)]


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow agent."""

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

    def step(self, step_id: str) -> Step:
        """The step of that id; KeyError when there is none."""
        for step in self.steps:
            if step.step_id == step_id:
                return step
        raise KeyError(step_id)
