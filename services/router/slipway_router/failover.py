"""Attempts at the candidates of a plan, in order, until one answers. After its first delta there is no way back."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from slipway_chassis import telemetry

from slipway_router import metrics
from slipway_router.budgets import BudgetExhausted
from slipway_router.call_record import CANCELLED, OK, AttemptNote, CallRecord
from slipway_router.catalogue import Model
from slipway_router.eligibility import Candidate, affordable
from slipway_router.errors import ModelsCoolingDown, ProviderFailure
from slipway_router.health import Admission, Gate
from slipway_router.holds import Hold
from slipway_router.routing import Plan

T = TypeVar("T")
_BACKOFF_SECONDS = 0.25


class Health(Protocol):
    """What is known about which models work, see shared_health."""

    async def admit(self, model: str) -> Admission: ...
    async def failed(self, model: str, retry_after: float | None) -> None: ...
    async def succeeded(self, model: str) -> None: ...
    async def released(self, model: str) -> None: ...


class Purse(Protocol):
    """Where the money for an attempt comes from, see books."""

    async def reserve(self, record: CallRecord, model: Model, seconds: float) -> Hold: ...


@dataclass(slots=True)
class Underway(Generic[T]):
    """An attempt that has begun to answer. Whoever holds it says how it ended: `Failover.won`, `lost` or `left`."""

    candidate: Candidate
    result: T
    hold: Hold
    span: Span
    started: float
    probe: bool


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """Deadlines of one attempt on the event loop's clock."""

    first_token: float
    end: float


Start = Callable[[Model, AttemptTimes], Awaitable[T]]


class Failover:
    """Tries candidates and keeps their health. Every attempt reserves its worst case before anything is sent."""

    def __init__(self, health: Health, purse: Purse) -> None:
        self._health = health
        self._purse = purse

    async def first(self, plan: Plan, record: CallRecord, start: Start[T]) -> Underway[T]:
        """The first candidate for which `start` returns.

        A failure that another model may not share leads on to the next candidate, and so does a budget that has no
        room for this one; all attempts are noted in `record`. When none is left, raises the last ProviderFailure;
        BudgetExhausted when money was wanting, ModelsCoolingDown when none could be tried.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + plan.limits.total_seconds
        failure: ProviderFailure | None = None
        poor: BudgetExhausted | None = None
        waits: list[float] = []
        for candidate in plan.candidates:
            if loop.time() >= deadline:
                break
            # Earlier attempts may have cost something: what is left of the ceiling must cover this one.
            if not affordable(candidate.model, plan.demand, record.cost):
                continue
            admission = await self._health.admit(candidate.model.name)
            if admission.gate is Gate.CLOSED:
                waits.append(admission.retry_after)
                continue
            if failure is not None:
                assert record.candidate is not None  # noqa: S101 - it failed
                metrics.fallbacks.labels(record.candidate.model.name, failure.reason).inc()
            for retry in range(plan.limits.retries + 1):
                if retry:
                    # Jittered, so that callers who failed together do not come back together.
                    await asyncio.sleep(_BACKOFF_SECONDS * 2**retry * random.uniform(0.5, 1))  # noqa: S311
                    if loop.time() >= deadline:
                        break
                try:
                    return await self._try(candidate, record, plan, deadline, admission.gate is Gate.PROBE, start)
                except BudgetExhausted as exhausted:
                    poor = exhausted
                    break
                except ProviderFailure as failed:
                    failure = failed
                    if not failed.retryable:
                        raise
                    # A provider that says when to come back means later than our back-off.
                    if failed.retry_after or not failed.unhealthy:
                        break
        if failure is not None:
            raise failure
        if poor is not None:
            raise poor
        raise ModelsCoolingDown("all models that apply are cooling down after failures", retry_after=min(waits))

    async def _try(
        self, candidate: Candidate, record: CallRecord, plan: Plan, deadline: float, probe: bool, start: Start[T]
    ) -> Underway[T]:
        model = candidate.model
        record.candidate = candidate
        now = asyncio.get_running_loop().time()
        times = AttemptTimes(
            first_token=min(now + plan.limits.first_token_seconds, deadline),
            end=min(now + plan.limits.attempt_seconds, deadline),
        )
        try:
            hold = await self._purse.reserve(record, model, times.end - now)
        except BaseException:
            if probe:
                await self._health.released(model.name)
            raise
        span = telemetry.start_span(
            f"{record.operation} {model.upstream}",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": record.operation,
                "gen_ai.provider.name": model.provider.name,
                "gen_ai.request.model": model.upstream,
                "slipway.model": model.name,
                "slipway.attempt": len(record.attempts) + 1,
            },
        )
        attempt = Underway[T | None](candidate, None, hold, span, time.monotonic(), probe)
        try:
            result = await start(model, times)
        except ProviderFailure as failure:
            await self.lost(attempt, record, failure)
            raise
        except BaseException:
            await self.left(attempt, record)
            raise
        return Underway(candidate, result, hold, span, attempt.started, probe)

    async def won(self, attempt: Underway[Any], record: CallRecord) -> None:
        """The attempt answered whole."""
        model = attempt.candidate.model
        attempt.span.set_attribute("gen_ai.response.model", record.returned_model)
        self._note(attempt, record, OK, None)
        await self._health.succeeded(model.name)

    async def lost(self, attempt: Underway[Any], record: CallRecord, failure: ProviderFailure) -> None:
        """The attempt failed; what the provider reported as used is paid."""
        model = attempt.candidate.model
        if failure.usage is not None:
            record.spend(attempt.hold, failure.usage)
        attempt.span.set_status(Status(StatusCode.ERROR, failure.reason))
        attempt.span.set_attribute("error.type", failure.reason)
        self._note(attempt, record, failure.reason, failure.status)
        if failure.unhealthy:
            await self._health.failed(model.name, failure.retry_after)
        else:
            # It answered: that the answer or the question was wrong says nothing against its health.
            await self._health.succeeded(model.name)

    async def left(self, attempt: Underway[Any], record: CallRecord) -> None:
        """The caller went away."""
        self._note(attempt, record, CANCELLED, None)
        if attempt.probe:
            await self._health.released(attempt.candidate.model.name)

    def _note(self, attempt: Underway[Any], record: CallRecord, outcome: str, status: int | None) -> None:
        model = attempt.candidate.model
        latency = round((time.monotonic() - attempt.started) * 1000)
        attempt.hold.ended = True
        record.attempts.append(AttemptNote(model.name, model.provider.name, outcome, status, latency))
        metrics.attempts.labels(model.name, outcome).inc()
        attempt.span.end()
