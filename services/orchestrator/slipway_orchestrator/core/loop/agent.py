"""What a loop agent is made of, as typed values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slipway_orchestrator.core.definition import Gate, Retry

MAX_CALLS = 32
"""Calls of one turn that are made; the model is told of those beyond."""


@dataclass(frozen=True, slots=True)
class LoopModel:
    """Which model takes the turns."""

    task: str
    model: str
    max_tokens: int | None
    """Of one answer."""
    temperature: float | None
    context_tokens: int
    """Estimated size of a conversation from which it is summarised; what the model's window leaves beside an answer."""


@dataclass(frozen=True, slots=True)
class LoopTool:
    """A tool that the model may call."""

    name: str
    gate: Gate | None
    retry: Retry
    timeout: float
    """Seconds of one attempt."""


@dataclass(frozen=True, slots=True)
class LoopKnowledge:
    """A collection that the model may search."""

    collection: str
    limit: int
    alpha: float | None


@dataclass(frozen=True, slots=True)
class LoopAgent:
    """An agent that the model may hand a task to: a child run."""

    name: str
    description: str
    """Empty: the agent's own."""
    version: int
    """0: the one in production when it is called."""


Callee = LoopTool | LoopKnowledge | LoopAgent


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop agent, beside what every agent has."""

    instructions: str
    """Template of the system message."""
    prompt: str | None
    """Template of the first message; None: the input's `message`, or the input as JSON."""
    model: LoopModel
    tools: tuple[LoopTool, ...]
    knowledge: tuple[LoopKnowledge, ...]
    agents: tuple[LoopAgent, ...]
    repairs: int
    """Times that the model is told that its answer does not fit the output's schema."""

    def callees(self) -> Mapping[str, Callee]:
        """What the model may call, by the name under which it is offered."""
        return {function_name(callee): callee for callee in (*self.tools, *self.knowledge, *self.agents)}


def function_name(callee: Callee) -> str:
    """The name under which a model is offered something: letters, digits, `_` and `-`, at most 64 (OpenAI's rule)."""
    match callee:
        case LoopTool(name=name):
            offered = name
        case LoopKnowledge(collection=collection):
            offered = f"search_{collection}"
        case LoopAgent(name=name):
            offered = f"agent_{name}"
    return re.sub(r"[^a-zA-Z0-9_-]", "_", offered)[:64]
