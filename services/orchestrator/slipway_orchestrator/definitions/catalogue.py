"""Checking what a definition names in other services: tools, collections, models and approvers."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from slipway_orchestrator.core.definition import Approval, ModelCall, Retrieve, Step, ToolCall
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
    tools: dict[str, ToolDescription] = {}
    collections: dict[str, bool] = {}
    for step, node in zip(parsed.definition.steps, parsed.steps, strict=True):
        match step.call:
            case Retrieve(collection=name):
                if name not in collections:
                    collections[name] = await catalogue.has_collection(name)
                if not collections[name]:
                    at = node.at("retrieve.collection")
                    problems.add(at.path, at.line, f"there is no collection {name}, or you may not read it")
            case ToolCall(name=name):
                found = tools.get(name) or await catalogue.tool(name)
                if found is None:
                    at = node.at("tool.name")
                    problems.add(at.path, at.line, f"there is no tool {name}, or you may not use it")
                    continue
                tools[name] = found
                _check_arguments(step.call, found, node, problems)
            case ModelCall(model=model, task=task):
                fault = await catalogue.model_fault(model, task)
                if fault is not None:
                    at = node.at("model.model" if model else "model.task")
                    problems.add(at.path, at.line, fault)
            case _:
                pass
    await _check_approvers(parsed, problems, catalogue)
    return tools


def _approvers(step: Step) -> tuple[str, ...]:
    match step.call:
        case Approval(gate=gate):
            return gate.approvers
        case ToolCall(gate=gate) if gate is not None:
            return gate.approvers
        case _:
            return ()


async def _check_approvers(parsed: Parsed, problems: Problems, catalogue: Catalogue) -> None:
    """A gate that nobody can open would wait until it expires."""
    named = list(dict.fromkeys(name for step in parsed.definition.steps for name in _approvers(step)))
    unknown = await catalogue.unknown_approvers(named) if named else ()
    if not unknown:
        return
    for step, node in zip(parsed.definition.steps, parsed.steps, strict=True):
        for index, name in enumerate(_approvers(step)):
            if name in unknown:
                at = node.at(f"approval.approvers[{index}]")
                problems.add(f"{node.path}.approval.approvers[{index}]", at.line, f"nobody knows {name}")


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
