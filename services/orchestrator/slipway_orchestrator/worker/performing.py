"""Performing one attempt at a step's effect: whatever comes of it, as events."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

from slipway_chassis.errors import SlipwayError
from slipway_chassis.telemetry import span

from slipway_orchestrator.core.actions import Perform, Tree
from slipway_orchestrator.core.definition import (
    Definition,
    History,
    ModelCall,
    Remember,
    Retrieve,
    Summary,
    ToolCall,
    Turn,
)
from slipway_orchestrator.core.events import Event, StepCompleted, StepRetrying, StepUncertain
from slipway_orchestrator.core.limits import limits_of, wall_deadline
from slipway_orchestrator.core.outcomes import MAX_MESSAGE, failed
from slipway_orchestrator.core.retry import Failure, backoff, tries_again
from slipway_orchestrator.core.state import RunState
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.store.committing import LeaseLost
from slipway_orchestrator.store.leases import Lease
from slipway_orchestrator.worker.answering import ask_model
from slipway_orchestrator.worker.attempt import Attempt, AttemptFailed, within_limits
from slipway_orchestrator.worker.invoking import call_tool
from slipway_orchestrator.worker.metrics import STEP_SECONDS, STEPS
from slipway_orchestrator.worker.retrieving import retrieve
from slipway_orchestrator.worker.sessions import read_history, remember
from slipway_orchestrator.worker.sources import Sources
from slipway_orchestrator.worker.turning import Turns

GRACE = 5.0
"""Seconds over the step's own time-out that an attempt has to end by itself."""
Stream = Callable[[int, str], Awaitable[None]]


class Performer:
    """Performs attempts against the services below."""

    def __init__(self, peers: Peers, sources: Sources) -> None:
        self._peers = peers
        self._turns = Turns(peers, sources)

    async def perform(
        self,
        lease: Lease,
        state: RunState,
        definition: Definition,
        action: Perform,
        tree: Tree | None,
        token: Callable[[], Awaitable[str]],
        stream: Stream,
    ) -> Event:
        """Perform it: the event of its outcome. Raises LeaseLost: another worker took over, nothing of it counts."""
        step, began = action.step, time.monotonic()
        outcome = "failed"
        attributes = {
            "slipway.run_id": lease.run.run_id,
            "slipway.step_id": action.at.key,
            "slipway.attempt": action.attempt,
            "gen_ai.operation.name": {"model": "chat", "tool": "execute_tool"}.get(step.type, step.type),
        }
        with span(f"step {step.step_id}", attributes=attributes):
            try:
                async with asyncio.timeout(step.timeout + GRACE):
                    attempt = await self._prepare(lease, state, definition, action, tree, token, stream)
                    completed = await self._call(definition, attempt)
                outcome = "completed"
                return completed
            except AttemptFailed as error:
                return came_to(lease, action, error)
            except SlipwayError as error:
                if error.reason == "STALE_EPOCH":
                    raise LeaseLost from error
                on_limit = limits_of(state, definition).on_limit
                return came_to(lease, action, AttemptFailed(within_limits(error, on_limit)))
            except TimeoutError:
                failure = Failure("STEP_TIMEOUT", "DEADLINE_EXCEEDED", f"no answer in {step.timeout:g} s", True)
                return came_to(lease, action, AttemptFailed(failure))
            finally:
                STEPS.labels(step.type, outcome).inc()
                STEP_SECONDS.labels(step.type).observe(time.monotonic() - began)

    async def _prepare(
        self,
        lease: Lease,
        state: RunState,
        definition: Definition,
        action: Perform,
        tree: Tree | None,
        token: Callable[[], Awaitable[str]],
        stream: Stream,
    ) -> Attempt:
        limits, totals = limits_of(state, definition), state.totals
        left = action.step.timeout
        if (deadline := wall_deadline(state, limits)) is not None:
            left = min(left, max((deadline - lease.now()).total_seconds(), 0.1))
        started = state.started
        tokens, cost = limits.tokens - totals.tokens, limits.cost_usd - totals.cost_usd
        if tree is not None:
            tokens = min(tokens, tree.tokens - tree.totals.tokens)
            cost = min(cost, tree.cost_usd - tree.totals.cost_usd)
        return Attempt(
            run=lease.run,
            perform=action,
            epoch=lease.epoch,
            token=await token(),
            regions=definition.regions,
            tokens_left=tokens,
            cost_left=str(cost),
            timeout=left,
            tree_cost=str(limits.cost_usd if tree is None else tree.cost_usd),
            root_run_id=(started.root_run_id if started else None) or lease.run.run_id,
            stream=stream,
            tainted=state.steps[action.at.key].input_tainted,
        )

    async def _call(self, definition: Definition, attempt: Attempt) -> StepCompleted:
        match attempt.perform.step.call:
            case Turn() as call if definition.loop is not None:
                return await self._turns.take(definition, definition.loop, call, attempt)
            case Summary() as call if definition.loop is not None:
                return await self._turns.sum_up(definition.loop, call, attempt)
            case History():
                return await read_history(self._peers, attempt)
            case Remember() as call:
                return await remember(self._peers, call, attempt)
            case Retrieve() as call:
                return await retrieve(self._peers, call, attempt)
            case ModelCall() as call:
                return await ask_model(self._peers, call, attempt)
            case ToolCall() as call:
                return await call_tool(self._peers, call, attempt)
            case other:
                raise TypeError(f"a step of type {type(other).__name__} performs nothing")


def came_to(lease: Lease, action: Perform, error: AttemptFailed) -> Event:
    """What a failed attempt leads to: another one, a person, or the step's end."""
    at, step, failure = action.at, action.step, error.failure
    message = failure.message[:MAX_MESSAGE]
    if failure.uncertain:
        return StepUncertain(at.key, step.type, action.attempt, failure.code, message)
    if tries_again(failure, step.retry, action.attempt):
        wait = backoff(step.retry, action.attempt, failure, random.random())  # noqa: S311 - jitter
        return StepRetrying(
            step_id=at.key,
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
    more = {
        "tool_error": failure.tool_error,
        "performed": failure.performed,
        "usage": error.usage,
        "cost_usd": error.cost_usd,
        "records": error.records,
        "stdout": error.stdout,
        "stderr": error.stderr,
    }
    return failed(at, action.attempt, failure.code, message, escalate=True, fatal=failure.fatal, more=more)
