"""The bounds of a run, and which one it has reached."""

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import JsonValue

from slipway_orchestrator.core.actions import Tree
from slipway_orchestrator.core.definition import ASKS_MODEL, Definition, Limits, Step
from slipway_orchestrator.core.events import Event, LoopDetected, RaisedLimits, RunFailed, RunPaused
from slipway_orchestrator.core.progress import Loop
from slipway_orchestrator.core.state import CONTAINERS, RunState, Totals

_UNRAISED = RaisedLimits()


@dataclass(frozen=True, slots=True)
class Reached:
    """A limit that stands in the way."""

    code: str
    message: str
    evidence: JsonValue
    key: str | None = None
    """Of the step that may not begin."""
    loop: Loop | None = None

    def pause(self) -> tuple[Event, ...]:
        """What pauses the run."""
        return (*self._loop(), RunPaused(self.message, self.code, evidence=self.evidence))

    def fail(self) -> tuple[Event, ...]:
        """What fails the run, once nothing is under way."""
        return (*self._loop(), RunFailed(self.code, self.message, self.key))

    def _loop(self) -> tuple[Event, ...]:
        return () if self.loop is None else (LoopDetected(self.loop.pattern, self.loop.evidence),)


def limits_of(state: RunState, definition: Definition) -> Limits:
    """The definition's limits, raised by people."""
    if state.raised == _UNRAISED:
        return definition.limits
    raised = {item.name: getattr(state.raised, item.name) for item in fields(state.raised)}
    return replace(definition.limits, **{name: value for name, value in raised.items() if value is not None})


def wall_deadline(state: RunState, limits: Limits) -> datetime | None:
    """When the run's wall time ends; None before it started."""
    return None if state.start_time is None else state.start_time + timedelta(seconds=limits.wall_time)


def exceeded(state: RunState, limits: Limits, now: datetime, tree: Tree | None = None) -> Reached | None:
    """What a run that went past a limit has reached, or None."""
    deadline, totals = wall_deadline(state, limits), state.totals
    if deadline is not None and now >= deadline:
        message = f"the run took longer than its {limits.wall_time:g} s"
        return Reached("LIMIT_WALL_TIME", message, {"limit": limits.wall_time})
    if totals.tokens > limits.tokens:
        return _over("LIMIT_TOKENS", f"{totals.tokens} tokens used", totals.tokens, limits.tokens)
    if totals.cost_usd > limits.cost_usd:
        return _over("LIMIT_COST", f"{totals.cost_usd} USD spent", str(totals.cost_usd), str(limits.cost_usd))
    if state.tool_errors >= limits.tool_errors:
        return _over("LIMIT_TOOL_ERRORS", f"{state.tool_errors} tool errors in a row", state.tool_errors, None)
    if tree is None:
        return None
    if tree.totals.tokens > tree.tokens:
        used = tree.totals.tokens
        return _over("LIMIT_TOKENS", f"{used} tokens used by all runs of the tree", used, tree.tokens, tree=True)
    if tree.totals.cost_usd > tree.cost_usd:
        spent = str(tree.totals.cost_usd)
        return _over("LIMIT_COST", f"{spent} USD spent by all runs of the tree", spent, str(tree.cost_usd), tree=True)
    return None


def _over(code: str, message: str, used: JsonValue, limit: JsonValue, *, tree: bool = False) -> Reached:
    if limit is None:
        return Reached(code, message, {"used": used})
    evidence: dict[str, JsonValue] = {"used": used, "limit": limit}
    return Reached(code, f"{message}, the limit is {limit}", {**evidence, "tree": True} if tree else evidence)


def allowed_again(paused: RunPaused, tree: Tree | None) -> bool:
    """Whether a run that its tree's limits paused may go on: its root's were raised."""
    if tree is None or not isinstance(paused.evidence, dict) or paused.evidence.get("tree") is not True:
        return False
    used = tree.totals
    return (
        used.steps < tree.steps and used.tokens < tree.tokens and (not tree.cost_usd or used.cost_usd < tree.cost_usd)
    )


def forbids_start(
    state: RunState, limits: Limits, step: Step, key: str, begun: int = 0, tree: Tree | None = None
) -> Reached | None:
    """What a run has reached that may not start this step after `begun` others that are not journalled yet, or None."""
    if step.type in CONTAINERS:
        return None
    if state.totals.steps + begun >= limits.steps:
        return Reached("LIMIT_STEPS", f"the run may start {limits.steps} steps", {"limit": limits.steps}, key)
    if tree is not None and tree.totals.steps + begun >= tree.steps:
        message = f"all runs of the tree may start {tree.steps} steps"
        return Reached("LIMIT_STEPS", message, {"limit": tree.steps, "tree": True}, key)
    if isinstance(step.call, ASKS_MODEL):
        return _spent(state.totals, limits.tokens, limits.cost_usd, key) or (
            None if tree is None else _spent(tree.totals, tree.tokens, tree.cost_usd, key, tree=True)
        )
    return None


def _spent(used: Totals, tokens: int, cost_usd: Decimal, key: str, *, tree: bool = False) -> Reached | None:
    """What has nothing left for another model call; a cost of 0 binds only what was spent."""
    more: dict[str, JsonValue] = {"tree": True} if tree else {}
    if used.tokens >= tokens:
        return Reached("LIMIT_TOKENS", f"all {tokens} tokens are used", {"limit": tokens, **more}, key)
    if 0 < cost_usd <= used.cost_usd:
        return Reached("LIMIT_COST", f"all {cost_usd} USD are spent", {"limit": str(cost_usd), **more}, key)
    return None


def forbids_call(
    state: RunState, limits: Limits, call: str, tool: str, arguments: JsonValue, key: str
) -> Reached | None:
    """What a run has reached that would repeat a call (`call_key`) once too often, or None."""
    times = state.calls.get(call, 0)
    if times < limits.repeats:
        return None
    message = f"the same call was made {limits.repeats} times already"
    evidence: JsonValue = {"tool": tool, "arguments": arguments, "times": times}
    return Reached("LIMIT_REPEATS", message, evidence, key, Loop("REPEAT", message, evidence))


def circling(state: RunState, definition: Definition) -> Reached | None:
    """What a run has reached that goes round in circles, if its definition looks for that."""
    looked_for = definition.loop_detection
    if looked_for is None:
        return None
    loop = state.progress.cycle() or state.progress.standstill(looked_for.turns_without_progress)
    return None if loop is None else Reached("LOOP_DETECTED", loop.message, loop.evidence, loop=loop)
