"""From a definition's nodes to typed values. Everything that needs no other service is checked here and in `names`."""

import json
import re
from dataclasses import dataclass

from pydantic import JsonValue

from slipway_orchestrator.core.definition import Definition, Limits, Step
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.json_schema import SchemaRefused, check_schema
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.definitions.steps import read_step

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SPEC_FIELDS = ("type", "description", "input", "output", "limits", "regions", "steps", "result")
_LIMIT_FIELDS = ("steps", "tokens", "cost_usd", "wall_time", "tool_errors", "repeats", "on_limit")
MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class Parsed:
    """A definition and where its steps stand in the text."""

    definition: Definition
    steps: tuple[Node, ...]
    result: Node


def parse(root: Node, problems: Problems) -> Parsed | None:
    """The definition; None when it is too broken to go on. What is wrong is noted in `problems`."""
    top = Fields(root, problems, ("apiVersion", "kind", "metadata", "spec"))
    for field, expected in (("apiVersion", "slipway.dev/v1"), ("kind", "Agent")):
        found = top.need(field)
        if found is not None and found.content != expected:
            problems.add(found.path, found.line, f"must be {expected}")
    metadata_node, spec_node = top.need("metadata"), top.need("spec")
    if metadata_node is None or spec_node is None:
        return None
    metadata = Fields(metadata_node, problems, ("name", "labels"))
    name = metadata.text("name", required=True) or ""
    if name and not NAME.fullmatch(name):
        problems.add("metadata.name", _line(metadata, "name"), "must be lower-case letters, digits and inner hyphens")
    spec = Fields(spec_node, problems, _SPEC_FIELDS)
    _check_type(spec, problems)
    limits = _limits(spec, problems)
    step_nodes, steps = _steps(spec, problems)
    input_schema, output_schema = _schema(spec, "input", problems), _schema(spec, "output", problems)
    result = spec.need("result")
    if limits is None or result is None or not steps:
        return None
    definition = Definition(
        name=name,
        description=spec.text("description", most=2000) or "",
        labels=metadata.string_map("labels", 16),
        input_schema=input_schema,
        output_schema=output_schema,
        limits=limits,
        regions=spec.texts("regions") if spec.get("regions") else None,
        steps=steps,
        result=result.plain(),
    )
    return Parsed(definition, step_nodes, result)


def _line(fields: Fields, name: str) -> int:
    found = fields.get(name)
    return found.line if found else fields.node.line


def _check_type(spec: Fields, problems: Problems) -> None:
    found = spec.need("type")
    if found is None or found.content == "workflow":
        return
    if found.content in ("loop", "remote"):
        problems.add(found.path, found.line, f"agents of type {found.content} are not supported yet; use workflow")
    else:
        problems.add(found.path, found.line, "must be workflow")


def _limits(spec: Fields, problems: Problems) -> Limits | None:
    node = spec.need("limits")
    if node is None:
        return None
    fields = Fields(node, problems, _LIMIT_FIELDS)
    on_limit = fields.get("on_limit")
    if on_limit is not None and on_limit.content == "pause":
        problems.add(on_limit.path, on_limit.line, "pause is not supported yet; use fail")
    else:
        fields.choice("on_limit", ("fail",), "fail")
    steps = fields.whole("steps", 1, 1000, required=True)
    tokens = fields.whole("tokens", 0, 100_000_000, required=True)
    cost = fields.money("cost_usd")
    wall_time = fields.duration("wall_time", required=True)
    tool_errors = fields.whole("tool_errors", 1, 1000, required=True)
    repeats = fields.whole("repeats", 1, 1000, required=True)
    if steps is None or tokens is None or cost is None or wall_time is None or tool_errors is None or repeats is None:
        return None
    return Limits(steps, tokens, cost, wall_time, tool_errors, repeats)


def _schema(spec: Fields, name: str, problems: Problems) -> dict[str, JsonValue]:
    node = spec.need(name)
    if node is None:
        return {}
    schema = node.plain()
    try:
        check_schema(schema)
    except SchemaRefused as error:
        at = node.at(error.path) if error.path else node
        problems.add(f"{node.path}.{error.path}" if error.path else node.path, at.line, str(error))
        return {}
    if name == "input" and isinstance(schema, dict) and schema.get("type") != "object":
        problems.add(node.path, node.line, "must be a schema of type object")
    return schema if isinstance(schema, dict) else {}


def _steps(spec: Fields, problems: Problems) -> tuple[tuple[Node, ...], tuple[Step, ...]]:
    node = spec.need("steps")
    if node is None:
        return (), ()
    if not isinstance(node.content, list) or not node.content:
        problems.add(node.path, node.line, "must be a list of at least one step")
        return (), ()
    if len(node.content) > MAX_STEPS:
        problems.add(node.path, node.line, f"must have at most {MAX_STEPS} steps")
        return (), ()
    nodes: list[Node] = []
    steps: list[Step] = []
    seen: dict[str, str] = {}
    for item in node.content:
        step = read_step(item, problems)
        if step is None:
            continue
        if step.step_id in seen:
            id_node = item.at("id")
            problems.add(id_node.path, id_node.line, f"{step.step_id} is the id of {seen[step.step_id]} already")
            continue
        seen[step.step_id] = item.path
        nodes.append(item)
        steps.append(step)
    return tuple(nodes), tuple(steps)


def canonical_text(root: Node) -> str:
    """The definition's values as JSON text, to be stored and read back by `from_json`."""
    return json.dumps(root.plain(), ensure_ascii=False, separators=(",", ":"))
