"""Attempts at models: one that is under way, its times, and what all attempts at one call share."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opentelemetry.trace import Span
from slipway_chassis.errors import SlipwayError

from slipway_router.budgets import BudgetExhausted
from slipway_router.call_record import CallRecord
from slipway_router.catalogue import Limits, Model
from slipway_router.eligibility import Candidate, affordable
from slipway_router.errors import ModelsCoolingDown, ProviderFailure, ProviderTimeout
from slipway_router.holds import Hold
from slipway_router.routing import Plan
from slipway_router.throttle import RateLimitReached, Turn

T = TypeVar("T")


@dataclass(slots=True)
class Underway(Generic[T]):
    """An attempt that has begun to answer. Whoever holds it says how it ended: `Failover.won`, `lost` or `left`."""

    candidate: Candidate
    result: T
    hold: Hold
    turn: Turn | None
    span: Span
    started: float
    probe: bool
    hedge: bool


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """Deadlines of one attempt on the event loop's clock, and the limits of its route."""

    first_token: float
    end: float
    limits: Limits


Start = Callable[[Model, AttemptTimes], Awaitable[T]]
Discard = Callable[[T], Awaitable[None]]


async def nothing_to_discard(_: Any) -> None:
    """For results that hold nothing open."""


@dataclass(slots=True)
class Round(Generic[T]):
    """What all attempts at one call share."""

    plan: Plan
    record: CallRecord
    start: Start[T]
    deadline: float
    candidates: deque[Candidate]
    waits: list[float]
    failure: ProviderFailure | None = None
    failed: str = ""
    poor: BudgetExhausted | None = None
    too_fast: RateLimitReached | None = None
    is_decided: bool = False
    """One attempt has answered: those beside it are stopped."""
    too_small: int = 0
    """The largest context window that the conversation did not fit."""

    def next(self) -> Candidate | None:
        """The next candidate that may do."""
        while self.candidates:
            candidate = self.candidates.popleft()
            if candidate.model.context_window > self.too_small:
                return candidate
        return None

    def is_affordable(self, model: Model) -> bool:
        """Whether another attempt at `model` stays below the ceiling, after all others and beside those under way."""
        under_way = sum(hold.worst for hold in self.record.holds if not hold.ended)
        return affordable(model, self.plan.demand, self.record.cost + under_way)

    def error(self) -> SlipwayError:
        """Why no attempt succeeded."""
        if self.failure is not None:
            return self.failure
        if self.poor is not None:
            return self.poor
        if self.too_fast is not None:
            return self.too_fast
        if self.waits:
            return ModelsCoolingDown(
                "all models that apply are cooling down after failures", retry_after=min(self.waits)
            )
        return ProviderTimeout("no time was left to try a model")
