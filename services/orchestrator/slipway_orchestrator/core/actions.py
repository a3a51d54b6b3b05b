"""What a run may do next. Whatever answers with these can drive a run: it is a `Decider`."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from pydantic import JsonValue

from slipway_orchestrator.core.definition import Step
from slipway_orchestrator.core.events import ApprovalDecided, Event, RunWaiting
from slipway_orchestrator.core.state import RunState, Totals


@dataclass(frozen=True, slots=True)
class Instance:
    """A step where it runs: within maps there is one for each item."""

    step: Step
    key: str
    """The step's id, followed by `[i]` for each map around it."""
    indices: tuple[int, ...] = ()
    """Position of the item in each map around it, the outermost first."""


@dataclass(frozen=True, slots=True)
class Append:
    """Write these events and decide again."""

    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """Evaluate the step's expressions: skip it, ask for approval, or journal its intent."""

    at: Instance


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for approval of these arguments, in a new approval."""

    at: Instance
    arguments: JsonValue
    proposer: str
    reason: str
    escalation: bool = False


@dataclass(frozen=True, slots=True)
class Spawn:
    """Begin another child run for an `agent` step that is tried again."""

    at: Instance
    attempt: int
    occurrence: int
    input: JsonValue
    approval_id: str | None


@dataclass(frozen=True, slots=True)
class Perform:
    """Perform the attempt whose intent is journalled; nothing to do if it is under way."""

    at: Instance
    attempt: int
    occurrence: int
    input: JsonValue
    decision: ApprovalDecided | None

    @property
    def step(self) -> Step:
        """The step as the definition has it."""
        return self.at.step


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell everything that is under way to stop."""

    force: bool
    """Do not give it time to end by itself."""


@dataclass(frozen=True, slots=True)
class Park:
    """Let go of the run until the time, or until somebody tells it something; if nothing is under way."""

    waiting: RunWaiting
    until: datetime
    """When it must be looked at again at the latest."""


@dataclass(frozen=True, slots=True)
class Conclude:
    """All steps are finished: evaluate the result."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over."""


Action = Append | Begin | Ask | Spawn | Perform | Stop | Park | Conclude | Ended


@dataclass(frozen=True, slots=True)
class Tree:
    """What all runs of a tree used together, this one included, and what their root lets them."""

    totals: Totals
    steps: int
    tokens: int
    cost_usd: Decimal


class Decider(Protocol):
    """Decides what a run does next: a pure function of its state, the time, and what its tree used."""

    def decide(self, state: RunState, now: datetime, tree: Tree | None = None) -> tuple[Action, ...]:
        """Everything that may go on now; a Park comes last. ValueError for a journal without its first event."""
        ...
