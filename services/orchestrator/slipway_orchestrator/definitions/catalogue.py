"""Checking what a definition names in other services: tools, collections, models and approvers."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from slipway_orchestrator.core.definition import ModelCall, Retrieve, Step, ToolCall
from slipway_orchestrator.core.loop.agent import Loop
from slipway_orchestrator.core.workflow.leaf import gate_of
from slipway_orchestrator.definitions.json_schema import violations
from slipway_orchestrator.definitions.parse import Parsed
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.expressions.template import has_expressions


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """What the registry tells of a tool."""

    name: str
    digest: str
    input_schema: Mapping[str, JsonValue]
    output_schema: Mapping[str, JsonValue]
    description: str = ""
    tainted_needs_approval: bool = False
    """Policy asks for a person when its arguments derive from what came from outside."""


class Catalogue(Protocol):
    """Tools, collections, models and people as the current caller may see them."""

    async def tool(self, name: str) -> ToolDescription | None:
        """The tool; None when the caller can see none of that name. Raises Unavailable."""
        ...

    async def has_collection(self, name: str) -> bool:
        """Whether the caller can see the collection. Raises Unavailable."""
        ...

    async def model_fault(self, model: str, task: str) -> str | None:
        """Why no model of that name, or for that task, can be had; None when one can. Raises Unavailable."""
        ...

    async def unknown_approvers(self, approvers: Sequence[str]) -> Collection[str]:
        """Those of the roles and users that nobody knows. Raises Unavailable."""
        ...


async def check_catalogue(parsed: Parsed, problems: Problems, catalogue: Catalogue) -> dict[str, ToolDescription]:
    """Note what is unknown, and wrong arguments of tools; the tools that were found, by name."""
    look = _Look(problems, catalogue)
    for step in parsed.definition.walk():
        await look.at(step, parsed.nodes[step.step_id])
    if parsed.definition.loop is not None:
        await look.loop(parsed.definition.loop, parsed)
    await _check_approvers(parsed, problems, catalogue)
    return look.tools


class _Look:
    """Asks for each name once."""

    def __init__(self, problems: Problems, catalogue: Catalogue) -> None:
        self._problems = problems
        self._catalogue = catalogue
        self.tools: dict[str, ToolDescription] = {}
        self._missing: set[str] = set()
        self._collections: dict[str, bool] = {}
        self._models: dict[tuple[str, str], str | None] = {}

    async def at(self, step: Step, node: Node) -> None:
        """Note what is wrong with the names of one step."""
        match step.call:
            case Retrieve(collection=name):
                await self._collection(name, node.at("retrieve.collection"))
            case ToolCall(name=name) as call:
                found = await self._tool(name)
                if found is None:
                    self._wrong(node.at("tool.name"), f"there is no tool {name}, or you may not use it")
                else:
                    _check_arguments(call, found, node, self._problems)
            case ModelCall(model=model, task=task):
                await self._model(model, task, node.at("model.model" if model else "model.task"))
            case _:
                pass

    async def loop(self, loop: Loop, parsed: Parsed) -> None:
        """Note what is wrong with the names of a loop."""
        await self._model(loop.model.model, loop.model.task, parsed.spec.at("model"))
        for tool in loop.tools:
            if await self._tool(tool.name) is None:
                self._wrong(parsed.callees[tool], f"there is no tool {tool.name}, or you may not use it")
        for known in loop.knowledge:
            await self._collection(known.collection, parsed.callees[known])

    async def _collection(self, name: str, node: Node) -> None:
        if name not in self._collections:
            self._collections[name] = await self._catalogue.has_collection(name)
        if not self._collections[name]:
            self._wrong(node, f"there is no collection {name}, or you may not read it")

    async def _model(self, model: str, task: str, node: Node) -> None:
        if (model, task) not in self._models:
            self._models[model, task] = await self._catalogue.model_fault(model, task)
        fault = self._models[model, task]
        if fault is not None:
            self._wrong(node, fault)

    async def _tool(self, name: str) -> ToolDescription | None:
        if name in self._missing:
            return None
        if name not in self.tools:
            found = await self._catalogue.tool(name)
            if found is None:
                self._missing.add(name)
                return None
            self.tools[name] = found
        return self.tools[name]

    def _wrong(self, node: Node, message: str) -> None:
        self._problems.add(node.path, node.line, message)


async def _check_approvers(parsed: Parsed, problems: Problems, catalogue: Catalogue) -> None:
    """A gate that nobody can open would wait until it expires."""
    named = list(_approvers(parsed))
    unknown = await catalogue.unknown_approvers(list(dict.fromkeys(name for _, name in named))) if named else ()
    for node, name in named:
        if name in unknown:
            problems.add(node.path, node.line, f"nobody knows {name}")


def _approvers(parsed: Parsed) -> Iterator[tuple[Node, str]]:
    """Everybody whom the definition names, and where."""
    for step in parsed.definition.walk():
        gate = gate_of(step)
        for index, name in enumerate(() if gate is None else gate.approvers):
            yield parsed.nodes[step.step_id].at(f"approval.approvers[{index}]"), name
    for tool in () if parsed.definition.loop is None else parsed.definition.loop.tools:
        for index, name in enumerate(() if tool.gate is None else tool.gate.approvers):
            yield parsed.callees[tool].at(f"approval.approvers[{index}]"), name
    if parsed.escalation is not None:
        for index, name in enumerate(parsed.definition.escalation.approvers):
            yield parsed.escalation.at(f"approvers[{index}]"), name


def _check_arguments(call: ToolCall, tool: ToolDescription, node: Node, problems: Problems) -> None:
    """Names and literal values of the arguments; what is rendered is validated when the step runs."""
    arguments = call.arguments if isinstance(call.arguments, dict) else {}
    schema = tool.input_schema
    required = schema.get("required")
    for name in required if isinstance(required, list) else []:
        if name not in arguments:
            at = node.at("tool")
            problems.add(f"{node.path}.tool.arguments.{name}", at.line, f"is missing: {tool.name} requires it")
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return
    for name, value in arguments.items():
        at = node.at(f"tool.arguments.{name}")
        member = properties.get(name)
        if member is None:
            if schema.get("additionalProperties") is False:
                known = ", ".join(properties)
                problems.add(at.path, at.line, f"{tool.name} has no such argument (it has: {known})")
        elif not has_expressions(value) and "$ref" not in json.dumps(member):
            for path, message in violations(json.dumps(member), value):
                problems.add(f"{at.path}.{path}" if path else at.path, at.line, message)
