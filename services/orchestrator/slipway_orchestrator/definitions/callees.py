"""Checking the agents that a definition calls: they exist, and none of them calls back."""

from collections.abc import Awaitable, Callable, Iterator

from slipway_orchestrator.core.definition import AgentCall, Definition
from slipway_orchestrator.core.loop.agent import LoopAgent
from slipway_orchestrator.definitions.outputs import Schema
from slipway_orchestrator.definitions.parse import Parsed
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node

Lookup = Callable[[str, int], Awaitable[Definition | None]]
"""An agent's version by name and number; 0: the one in production, or the latest while none is."""


async def check_callees(parsed: Parsed, problems: Problems, lookup: Lookup) -> dict[str, Schema]:
    """Note calls of unknown agents and circles; the output schemas of those that were found, by name."""
    own, found = parsed.definition.name, dict[str, Schema]()
    for name, version, at in _called(parsed):
        if name == own:
            problems.add(at.path, at.line, "an agent cannot call itself")
            continue
        callee = await lookup(name, version)
        if callee is None:
            which = f"no version {version} of agent {name}" if version else f"no agent {name}"
            problems.add(at.path, at.line, f"there is {which}")
            continue
        found[name] = callee.output_schema
        way = await _way_to(own, callee, lookup, {name})
        if way is not None:
            problems.add(at.path, at.line, f"a cycle: {' calls '.join((own, *way))}")
    return found


def _called(parsed: Parsed) -> Iterator[tuple[str, int, Node]]:
    """Name, version and place of each agent that the definition names."""
    for step in parsed.definition.walk():
        if isinstance(step.call, AgentCall):
            yield step.call.name, step.call.version, parsed.nodes[step.step_id].at("agent.name")
    for callee, node in parsed.callees.items():
        if isinstance(callee, LoopAgent):
            yield callee.name, callee.version, node


async def _way_to(name: str, caller: Definition, lookup: Lookup, seen: set[str]) -> tuple[str, ...] | None:
    """The calls that lead from an agent to `name`; None when none do."""
    for called, version in caller.calls():
        if called == name:
            return caller.name, name
        if called in seen:
            continue
        seen.add(called)
        callee = await lookup(called, version)
        way = None if callee is None else await _way_to(name, callee, lookup, seen)
        if way is not None:
            return (caller.name, *way)
    return None
