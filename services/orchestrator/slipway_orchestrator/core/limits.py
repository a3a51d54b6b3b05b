"""The bounds of a run, and which one it has reached."""

from datetime import datetime, timedelta

from slipway_orchestrator.core.definition import Definition, Limits, ModelCall, Step
from slipway_orchestrator.core.events import RunFailed
from slipway_orchestrator.core.state import RunState


def wall_deadline(state: RunState, limits: Limits) -> datetime | None:
    """When the run's wall time ends; None before it started."""
    return None if state.start_time is None else state.start_time + timedelta(seconds=limits.wall_time)


def exceeded(state: RunState, limits: Limits, now: datetime) -> RunFailed | None:
    """The failure of a run that went past a limit, or None."""
    deadline = wall_deadline(state, limits)
    if deadline is not None and now >= deadline:
        return RunFailed("LIMIT_WALL_TIME", f"the run took longer than its {limits.wall_time:g} s")
    if state.totals.tokens > limits.tokens:
        return RunFailed("LIMIT_TOKENS", f"{state.totals.tokens} tokens used, the limit is {limits.tokens}")
    if state.totals.cost_usd > limits.cost_usd:
        return RunFailed("LIMIT_COST", f"{state.totals.cost_usd} USD spent, the limit is {limits.cost_usd}")
    if state.tool_errors >= limits.tool_errors:
        return RunFailed("LIMIT_TOOL_ERRORS", f"{state.tool_errors} tool errors in a row")
    return None


def forbids_start(state: RunState, definition: Definition, step: Step) -> RunFailed | None:
    """The failure of a run that may not start this step, or None."""
    limits = definition.limits
    if state.totals.steps >= limits.steps:
        return RunFailed("LIMIT_STEPS", f"the run may start {limits.steps} steps", step.step_id)
    if isinstance(step.call, ModelCall):
        if state.totals.tokens >= limits.tokens:
            return RunFailed("LIMIT_TOKENS", f"all {limits.tokens} tokens are used", step.step_id)
        if limits.cost_usd > 0 and state.totals.cost_usd >= limits.cost_usd:
            return RunFailed("LIMIT_COST", f"all {limits.cost_usd} USD are spent", step.step_id)
    return None


def forbids_call(state: RunState, limits: Limits, call: str, step: Step) -> RunFailed | None:
    """The failure of a run that would repeat a call (`call_key`) once too often, or None."""
    if state.calls.get(call, 0) >= limits.repeats:
        return RunFailed("LIMIT_REPEATS", f"the same call was made {limits.repeats} times already", step.step_id)
    return None
