"""Performing an attempt while its lease is kept: renewed as long as the attempt may take, and no longer."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from slipway_chassis.errors import SlipwayError, Unavailable
from slipway_chassis.telemetry import span

from slipway_orchestrator.core.decide import Perform
from slipway_orchestrator.core.definition import Definition, ModelCall, Retrieve, ToolCall
from slipway_orchestrator.core.events import (
    Event,
    RunFailed,
    StepCompleted,
    StepFailed,
    StepRetrying,
    StepUncertain,
)
from slipway_orchestrator.core.retry import Failure, backoff, tries_again
from slipway_orchestrator.core.state import RunState
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.store.leases import Lease, LeaseLost, Leases
from slipway_orchestrator.worker.answering import ask_model
from slipway_orchestrator.worker.attempt import Attempt, AttemptFailed, failure_of
from slipway_orchestrator.worker.invoking import call_tool
from slipway_orchestrator.worker.metrics import STEP_SECONDS, STEPS
from slipway_orchestrator.worker.retrieving import retrieve

_GRACE = 5.0
"""Seconds over the step's own time-out that an attempt has to end by itself."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The attempt was broken off: somebody asked for something that goes first."""


class Performer:
    """Performs attempts against the services below."""

    def __init__(self, peers: Peers, leases: Leases, lease_seconds: float) -> None:
        self._peers = peers
        self._leases = leases
        self._renew_every = lease_seconds / 3

    async def perform(
        self,
        lease: Lease,
        state: RunState,
        definition: Definition,
        action: Perform,
        token: Callable[[], Awaitable[str]],
        nudge: asyncio.Event,
        cancelled: Callable[[], Awaitable[bool]],
        stream: Callable[[int, str], Awaitable[None]],
    ) -> tuple[Event, ...] | Asked:
        """Perform it: the events of its outcome, or Asked when `cancelled` became true meanwhile.

        Raises LeaseLost when another worker took over; then nothing of it counts.
        """
        work = asyncio.create_task(self._attempt(lease, state, definition, action, token, stream))
        try:
            return await self._watched(work, lease, action, nudge, cancelled)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=_GRACE)

    async def _watched(
        self,
        work: "asyncio.Task[tuple[Event, ...]]",
        lease: Lease,
        action: Perform,
        nudge: asyncio.Event,
        cancelled: Callable[[], Awaitable[bool]],
    ) -> tuple[Event, ...] | Asked:
        began, renewed = time.monotonic(), time.monotonic()
        bound = action.step.timeout + 2 * _GRACE
        while True:
            nudged = asyncio.create_task(nudge.wait())
            try:
                await asyncio.wait({work, nudged}, timeout=self._renew_every, return_when=asyncio.FIRST_COMPLETED)
            finally:
                nudged.cancel()
            if work.done():
                return work.result()
            if time.monotonic() - began > bound:
                # It does not even end when it is told to: it is not renewed for ever.
                failure = Failure("STEP_TIMEOUT", "DEADLINE_EXCEEDED", "the attempt did not end in time", True)
                return self._failed(lease, action, AttemptFailed(failure))
            asked = nudge.is_set()
            nudge.clear()
            if time.monotonic() - renewed >= self._renew_every * 0.9:
                try:
                    asked = await self._leases.renew(lease) or asked
                    renewed = time.monotonic()
                except Unavailable:
                    continue  # the lease may outlast the database's absence; the fence decides
            if asked and await cancelled():
                return Asked()

    async def _attempt(
        self,
        lease: Lease,
        state: RunState,
        definition: Definition,
        action: Perform,
        token: Callable[[], Awaitable[str]],
        stream: Callable[[int, str], Awaitable[None]],
    ) -> tuple[Event, ...]:
        step, began = action.step, time.monotonic()
        outcome = "failed"
        attributes = {
            "slipway.run_id": lease.run.run_id,
            "slipway.step_id": step.step_id,
            "slipway.attempt": action.attempt,
            "gen_ai.operation.name": {"model": "chat", "tool": "execute_tool"}.get(step.type, step.type),
        }
        with span(f"step {step.step_id}", attributes=attributes):
            try:
                async with asyncio.timeout(step.timeout + _GRACE):
                    limits, totals = definition.limits, state.totals
                    attempt = Attempt(
                        run=lease.run,
                        perform=action,
                        epoch=lease.epoch,
                        token=await token(),
                        regions=definition.regions,
                        tokens_left=limits.tokens - totals.tokens,
                        cost_left=str(limits.cost_usd - totals.cost_usd),
                        stream=stream,
                    )
                    completed = await self._call(attempt)
                outcome = "completed"
                return (completed,)
            except AttemptFailed as error:
                return self._failed(lease, action, error)
            except SlipwayError as error:
                if error.reason == "STALE_EPOCH":
                    raise LeaseLost from error
                return self._failed(lease, action, AttemptFailed(failure_of(error)))
            except TimeoutError:
                failure = Failure("STEP_TIMEOUT", "DEADLINE_EXCEEDED", f"no answer in {step.timeout:g} s", True)
                return self._failed(lease, action, AttemptFailed(failure))
            finally:
                STEPS.labels(step.type, outcome).inc()
                STEP_SECONDS.labels(step.type).observe(time.monotonic() - began)

    async def _call(self, attempt: Attempt) -> StepCompleted:
        match attempt.perform.step.call:
            case Retrieve() as call:
                return await retrieve(self._peers, call, attempt)
            case ModelCall() as call:
                return await ask_model(self._peers, call, attempt)
            case ToolCall() as call:
                return await call_tool(self._peers, call, attempt)
            case other:
                raise TypeError(f"a step of type {type(other).__name__} performs nothing")

    def _failed(self, lease: Lease, action: Perform, error: AttemptFailed) -> tuple[Event, ...]:
        step, failure = action.step, error.failure
        message = failure.message[:2000]
        if failure.uncertain:
            return (StepUncertain(step.step_id, step.type, action.attempt, failure.code, message),)
        if tries_again(failure, step.retry, action.attempt):
            wait = backoff(step.retry, action.attempt, failure, random.random())  # noqa: S311 - jitter
            retrying = StepRetrying(
                step_id=step.step_id,
                type=step.type,
                attempt=action.attempt,
                code=failure.code,
                message=message,
                retry_at=lease.now() + timedelta(seconds=wait),
                tool_error=failure.tool_error,
                performed=failure.performed,
                usage=error.usage,
                cost_usd=error.cost_usd,
                records=error.records,
            )
            return (retrying,)
        failed = StepFailed(
            step_id=step.step_id,
            type=step.type,
            attempt=action.attempt,
            code=failure.code,
            message=message,
            handled=step.on_error == "continue" and not failure.fatal,
            tool_error=failure.tool_error,
            usage=error.usage,
            cost_usd=error.cost_usd,
            records=error.records,
            stdout=error.stdout,
            stderr=error.stderr,
        )
        return (failed, RunFailed(failure.code, message, step.step_id)) if failure.fatal else (failed,)
