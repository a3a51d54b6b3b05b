"""Attempts at the candidates of a plan until one answers. After its first delta there is no way back.

Candidates are tried in turn. Where the route hedges, a second turn begins beside the first when that is slow: both take
from the same candidates, the first to answer wins, and what the other one has used is paid.
"""

import asyncio
import random
import time
from collections import deque
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import SpanKind, Status, StatusCode
from slipway_chassis import telemetry
from slipway_chassis.caller import Caller
from slipway_chassis.deadline import remaining

from slipway_router import metrics
from slipway_router.attempts import AttemptTimes, Discard, Round, Start, Underway, nothing_to_discard
from slipway_router.budgets import BudgetExhausted
from slipway_router.call_record import CANCELLED, OK, AttemptNote, CallRecord
from slipway_router.catalogue import Model
from slipway_router.eligibility import Candidate, output_most
from slipway_router.errors import (
    BadOutput,
    ContentFiltered,
    ProviderContextTooLong,
    ProviderFailure,
    ProviderTimeout,
)
from slipway_router.health import Admission, Gate
from slipway_router.holds import Hold
from slipway_router.measurements import Measurements
from slipway_router.routing import Plan
from slipway_router.throttle import RateLimitReached, Turn

T = TypeVar("T")
_BACKOFF_SECONDS = 0.25
_TO_ANSWER_SECONDS = 0.05
"""So much of the caller's deadline is kept to tell what went wrong."""


class Health(Protocol):
    """What is known about which models work, see shared_health."""

    async def admit(self, model: str) -> Admission: ...
    async def failed(self, model: str, retry_after: float | None) -> None: ...
    async def succeeded(self, model: str) -> None: ...
    async def released(self, model: str) -> None: ...


class Purse(Protocol):
    """Where the money for an attempt comes from, see books."""

    async def reserve(self, record: CallRecord, model: Model, seconds: float, *, dispatched: bool = True) -> Hold: ...
    async def dispatch(self, hold: Hold) -> None: ...


class Throttle(Protocol):
    """How fast models may be asked, see shared_throttle."""

    async def take(self, caller: Caller, model: Model, tokens: int) -> Turn | None: ...
    async def give_back(self, turn: Turn, *, tokens: int | None) -> None: ...


class Failover:
    """Tries candidates and keeps their health. Every attempt reserves its worst case before anything is sent."""

    def __init__(self, health: Health, purse: Purse, throttle: Throttle, measurements: Measurements) -> None:
        self._health = health
        self._purse = purse
        self._throttle = throttle
        self._measurements = measurements

    async def first(
        self, plan: Plan, record: CallRecord, start: Start[T], discard: Discard[T] = nothing_to_discard
    ) -> Underway[T]:
        """The first candidate for which `start` returns.

        A failure that another model may not share leads on to the next candidate, and so do a budget that has no room
        for this one and a limit that it has reached; all attempts are noted in `record`. When none is left, raises the
        last ProviderFailure; BudgetExhausted when money was wanting, RateLimitReached or ModelsCoolingDown when none
        could be tried. `discard` stops what a hedged attempt has begun that another one has outrun.
        """
        seconds = plan.limits.total_seconds
        left = remaining()
        if left is not None:
            seconds = min(seconds, max(left - _TO_ANSWER_SECONDS, 0))
        deadline = asyncio.get_running_loop().time() + seconds
        tried = Round(plan, record, start, deadline, deque(plan.candidates), [])
        if plan.limits.hedge_seconds is None or len(plan.candidates) < 2:
            attempt = await self._in_turn(tried, hedge=False)
        else:
            attempt = await self._hedged(tried, plan.limits.hedge_seconds, discard)
        if attempt is None:
            raise tried.error()
        record.candidate = attempt.candidate
        waited = time.monotonic() - attempt.started
        self._measurements.answered(attempt.candidate.model.name, waited, first_token=plan.demand.streamed)
        return attempt

    async def _hedged(self, tried: Round[T], after: float, discard: Discard[T]) -> Underway[T] | None:
        turns = [asyncio.create_task(self._in_turn(tried, hedge=False))]
        winner: Underway[T] | None = None
        try:
            done, _ = await asyncio.wait(turns, timeout=after)
            if not done and tried.candidates:
                turns.append(asyncio.create_task(self._in_turn(tried, hedge=True)))
            open_turns = set(turns)
            while open_turns and winner is None:
                done, open_turns = await asyncio.wait(open_turns, return_when=asyncio.FIRST_COMPLETED)
                # In the order in which they began, should both be done.
                for turn in turns:
                    if turn in done and winner is None:
                        winner = turn.result()
            return winner
        finally:
            tried.is_decided = winner is not None
            for turn in turns:
                turn.cancel()
            for outcome in await asyncio.gather(*turns, return_exceptions=True):
                if isinstance(outcome, Underway) and outcome is not winner:
                    await discard(outcome.result)
                    await self.left(outcome, tried.record)
            if winner is not None and len(turns) > 1:
                metrics.hedges.labels(winner.candidate.model.name, "hedge" if winner.hedge else "first").inc()

    async def _in_turn(self, tried: Round[T], *, hedge: bool) -> Underway[T] | None:
        """The first candidate that answers; None when none is left. Raises a failure that no other model would cure."""
        loop = asyncio.get_running_loop()
        while loop.time() < tried.deadline and (candidate := tried.next()) is not None:
            model = candidate.model
            # Earlier attempts may have cost something: what is left of the ceiling must cover this one.
            if not tried.is_affordable(model):
                continue
            admission = await self._health.admit(model.name)
            if admission.gate is Gate.CLOSED:
                tried.waits.append(admission.retry_after)
                continue
            if tried.failure is not None:
                metrics.fallbacks.labels(tried.failed, tried.failure.reason).inc()
            try:
                attempt = await self._at(candidate, tried, probe=admission.gate is Gate.PROBE, hedge=hedge)
            except BudgetExhausted as exhausted:
                tried.poor = exhausted
                continue
            except RateLimitReached as reached:
                tried.too_fast = reached
                continue
            if attempt is not None:
                return attempt
        return None

    async def _at(self, candidate: Candidate, tried: Round[T], *, probe: bool, hedge: bool) -> Underway[T] | None:
        """Attempts at one model, as many as the route allows; None when another model should be tried."""
        limits = tried.plan.limits
        outages = bad_outputs = 0
        while True:
            try:
                return await self._try(candidate, tried, probe=probe and not outages and not bad_outputs, hedge=hedge)
            except ProviderFailure as failure:
                tried.failure, tried.failed = failure, candidate.model.name
                if isinstance(failure, ContentFiltered) and limits.fall_back_on_content_filter:
                    return None
                if not failure.retryable:
                    raise
                if isinstance(failure, ProviderContextTooLong):
                    tried.too_small = max(tried.too_small, candidate.model.context_window)
                    return None
                if isinstance(failure, BadOutput):
                    bad_outputs += 1
                    again = bad_outputs <= limits.bad_output_retries
                else:
                    outages += 1
                    # A provider that says when to come back means later than our back-off.
                    again = outages <= limits.retries and failure.unhealthy and not failure.retry_after
                    if again:
                        # Jittered, so that callers who failed together do not come back together.
                        await asyncio.sleep(_BACKOFF_SECONDS * 2**outages * random.uniform(0.5, 1))  # noqa: S311
            is_over = asyncio.get_running_loop().time() >= tried.deadline
            if not again or is_over or not tried.is_affordable(candidate.model):
                return None

    async def _try(self, candidate: Candidate, tried: Round[T], *, probe: bool, hedge: bool) -> Underway[T]:
        model, record, limits = candidate.model, tried.record, tried.plan.limits
        record.candidate = candidate
        try:
            turn, hold = await self._admitted(model, tried)
        except BaseException:
            if probe:
                await self._health.released(model.name)
            raise
        now = asyncio.get_running_loop().time()
        times = AttemptTimes(
            first_token=min(now + limits.first_token_seconds, tried.deadline),
            end=min(now + limits.attempt_seconds, tried.deadline),
            limits=limits,
        )
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
        attempt = Underway[T | None](candidate, None, hold, turn, span, time.monotonic(), probe, hedge)
        try:
            result = await tried.start(model, times)
        except ProviderFailure as failure:
            if isinstance(failure, ProviderTimeout) and _had_little_time(attempt, tried):
                # Broken off while the model was at work: as if the caller had gone away.
                failure.unhealthy = False
                record.spend_estimate(hold)
            await self.lost(attempt, record, failure)
            raise
        except BaseException:
            if tried.is_decided:
                # It would have taken longer still: a model that is always outrun must not count as unknown.
                waited = time.monotonic() - attempt.started
                self._measurements.answered(model.name, waited, first_token=tried.plan.demand.streamed)
            await self.left(attempt, record)
            raise
        return Underway(candidate, result, hold, turn, span, attempt.started, probe, hedge)

    async def _admitted(self, model: Model, tried: Round[T]) -> tuple[Turn | None, Hold]:
        """The model's limits and all budgets have room for an attempt, and its turn has come.

        While it waits for its turn its money is reserved, but nothing is owed should this process die.
        """
        demand, record, loop = tried.plan.demand, tried.record, asyncio.get_running_loop()
        turn = await self._throttle.take(record.caller, model, demand.input_estimate + output_most(model, demand))
        wait = turn.wait if turn else 0
        hold: Hold | None = None
        try:
            left = tried.deadline - loop.time()
            if wait >= left:
                raise RateLimitReached(f"{model.name} may not be asked in time", retry_after=wait)
            seconds = min(wait + tried.plan.limits.attempt_seconds, left)
            hold = await self._purse.reserve(record, model, seconds, dispatched=not wait)
            if wait:
                await asyncio.sleep(wait)
                await self._purse.dispatch(hold)
        except BaseException:
            if hold is not None:
                hold.ended = True
            if turn is not None:
                await self._throttle.give_back(turn, tokens=None)
            raise
        return turn, hold

    async def _ended(self, attempt: Underway[Any]) -> None:
        if attempt.turn is not None:
            await self._throttle.give_back(attempt.turn, tokens=attempt.hold.tokens)

    async def won(self, attempt: Underway[Any], record: CallRecord) -> None:
        """The attempt answered whole."""
        model = attempt.candidate.model
        attempt.span.set_attribute("gen_ai.response.model", record.returned_model)
        self._note(attempt, record, OK, None)
        await self._ended(attempt)
        await self._health.succeeded(model.name)

    async def lost(self, attempt: Underway[Any], record: CallRecord, failure: ProviderFailure) -> None:
        """The attempt failed; what the provider reported as used is paid."""
        model = attempt.candidate.model
        if failure.usage is not None:
            record.spend(attempt.hold, failure.usage)
        elif isinstance(failure, BadOutput):
            # It answered: that the answer is of no use does not make it free.
            record.spend_estimate(attempt.hold)
        attempt.span.set_status(Status(StatusCode.ERROR, failure.reason))
        attempt.span.set_attribute("error.type", failure.reason)
        self._note(attempt, record, failure.reason, failure.status)
        await self._ended(attempt)
        if failure.unhealthy or isinstance(failure, BadOutput):
            self._measurements.failed(model.name)
        if failure.unhealthy:
            await self._health.failed(model.name, failure.retry_after)
        else:
            # It answered: that the answer or the question was wrong says nothing against its health.
            await self._health.succeeded(model.name)

    async def left(self, attempt: Underway[Any], record: CallRecord) -> None:
        """The caller went away, or another attempt was faster; what the provider did until then is paid by
        estimate."""
        record.spend_estimate(attempt.hold)
        self._note(attempt, record, CANCELLED, None)
        await self._ended(attempt)
        if attempt.probe:
            await self._health.released(attempt.candidate.model.name)

    def _note(self, attempt: Underway[Any], record: CallRecord, outcome: str, status: int | None) -> None:
        model = attempt.candidate.model
        seconds = time.monotonic() - attempt.started
        attempt.hold.ended = True
        record.attempts.append(
            AttemptNote(model.name, model.provider.name, outcome, status, round(seconds * 1000), attempt.hedge)
        )
        metrics.attempts.labels(model.name, outcome).inc()
        metrics.attempt_duration.labels(model.name, "ok" if outcome == OK else "failed").observe(seconds)
        attempt.span.end()


def _had_little_time(attempt: Underway[Any], tried: Round[Any]) -> bool:
    """True when the call's deadline ended the attempt before half of the time that its route gives one: that says
    nothing against the model."""
    limits = tried.plan.limits
    given = (
        min(limits.first_token_seconds, limits.attempt_seconds)
        if tried.plan.demand.streamed
        else limits.attempt_seconds
    )
    return time.monotonic() - attempt.started < given / 2
