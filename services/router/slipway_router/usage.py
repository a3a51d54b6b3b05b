"""Usage: one row for each call, and sums of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from typing_extensions import TypeIs

from slipway_router.call_record import AttemptNote
from slipway_router.chat import Spent
from slipway_router.decision import Decision

Dimension = Literal[
    "model", "subject", "run", "root_run", "agent", "user", "key", "task", "provider", "outcome", "day", "month"
]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)


def is_dimension(name: str) -> TypeIs[Dimension]:
    """Whether sums can be grouped by `name`."""
    return name in DIMENSIONS


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One call that has ended. `usage_id` orders rows of the same moment."""

    usage_id: int
    request_id: str
    end_time: datetime
    subject: str
    run_id: str
    requested_model: str
    catalogue_model: str
    returned_model: str
    provider: str
    task: str
    spent: Spent
    attempts: int
    outcome: str
    latency_ms: int
    labels: Mapping[str, str]
    root_run_id: str = ""
    agent_version: str = ""


@dataclass(frozen=True, slots=True)
class SentDecision:
    """The decision on a call, and what came of it."""

    decision: Decision
    attempts: Sequence[AttemptNote]
    outcome: str
    end_time: datetime


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The sum of all calls with the same value of a dimension."""

    key: str
    calls: int
    spent: Spent
