"""From a definition's nodes to typed values. Everything that needs no other service is checked here and in `names`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from slipway_orchestrator.core.definition import (
    Definition,
    Limits,
    LoopDetection,
    OnLimit,
    Scheduling,
    Session,
    SessionConcurrency,
    Step,
)
from slipway_orchestrator.core.loop.agent import Callee
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.gates import read_escalation
from slipway_orchestrator.definitions.json_schema import SchemaRefused, check_schema
from slipway_orchestrator.definitions.loop import LOOP_FIELDS, LoopReader
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.definitions.steps import StepReader

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_SPEC_FIELDS = (
    "type",
    "description",
    "input",
    "output",
    "limits",
    "regions",
    "session",
    "scheduling",
    "loop_detection",
    "escalation",
)
_WORKFLOW_FIELDS = ("steps", "result")
_LIMIT_FIELDS = ("steps", "tokens", "cost_usd", "wall_time", "tool_errors", "repeats", "on_limit")
_MANY = 100_000


@dataclass(frozen=True, slots=True)
class Parsed:
    """A definition and where its steps stand in the text."""

    definition: Definition
    nodes: Mapping[str, Node]
    """The node of each step, by its id."""
    spec: Node
    escalation: Node | None
    callees: Mapping[Callee, Node]
    """Where what a loop may call stands in the text."""

    @property
    def result(self) -> Node:
        """The node of a workflow's result."""
        return self.spec.at("result")


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
    is_loop = _is_loop(spec_node)
    spec = Fields(spec_node, problems, (*_SPEC_FIELDS, *(LOOP_FIELDS if is_loop else _WORKFLOW_FIELDS)))
    _check_type(spec, problems)
    limits = _limits(spec, problems)
    reader, loop_reader = StepReader(problems), LoopReader(problems)
    steps: tuple[Step, ...] = ()
    loop, result = None, None
    if is_loop:
        loop = loop_reader.read(spec)
    else:
        step_list, result = spec.need("steps"), spec.need("result")
        steps = () if step_list is None else reader.sequence(step_list)
    input_schema, output_schema = _schema(spec, "input", problems), _schema(spec, "output", problems)
    if limits is None or (loop is None and (result is None or not steps)):
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
        result=None if result is None else result.plain(),
        escalation=read_escalation(spec.get("escalation"), problems),
        session=_session(spec, problems),
        scheduling=_scheduling(spec, problems),
        # A model that chooses what it does is always looked after.
        loop_detection=_loop_detection(spec, limits.on_limit, problems)
        or (LoopDetection(limits.on_limit) if is_loop else None),
        loop=loop,
    )
    return Parsed(definition, reader.nodes, spec_node, spec.get("escalation"), loop_reader.nodes)


def _is_loop(spec: Node) -> bool:
    kind = spec.content.get("type") if isinstance(spec.content, dict) else None
    return kind is not None and kind.content == "loop"


def _line(fields: Fields, name: str) -> int:
    found = fields.get(name)
    return found.line if found else fields.node.line


def _check_type(spec: Fields, problems: Problems) -> None:
    found = spec.need("type")
    if found is not None and found.content not in ("workflow", "loop"):
        problems.add(found.path, found.line, "must be workflow or loop")


def _limits(spec: Fields, problems: Problems) -> Limits | None:
    node = spec.need("limits")
    if node is None:
        return None
    fields = Fields(node, problems, _LIMIT_FIELDS)
    on_limit: OnLimit = "pause" if fields.choice("on_limit", ("fail", "pause"), "fail") == "pause" else "fail"
    steps = fields.whole("steps", 1, _MANY, required=True)
    tokens = fields.whole("tokens", 0, 100_000_000, required=True)
    cost = fields.money("cost_usd")
    wall_time = fields.duration("wall_time", required=True)
    tool_errors = fields.whole("tool_errors", 1, _MANY, required=True)
    repeats = fields.whole("repeats", 1, _MANY, required=True)
    if steps is None or tokens is None or cost is None or wall_time is None or tool_errors is None or repeats is None:
        return None
    return Limits(steps, tokens, cost, wall_time, tool_errors, repeats, on_limit)


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


def _session(spec: Fields, problems: Problems) -> Session:
    node = spec.get("session")
    if node is None:
        return Session()
    chosen = Fields(node, problems, ("concurrency",)).choice("concurrency", ("refuse", "queue", "interrupt"), "queue")
    concurrency: SessionConcurrency = (
        "refuse" if chosen == "refuse" else "interrupt" if chosen == "interrupt" else "queue"
    )
    return Session(concurrency)


def _scheduling(spec: Fields, problems: Problems) -> Scheduling:
    node = spec.get("scheduling")
    if node is None:
        return Scheduling()
    fields = Fields(node, problems, ("concurrency", "worker_pool"))
    pool = fields.text("worker_pool", most=63) or ""
    if pool and not _LABEL.fullmatch(pool):
        at = node.at("worker_pool")
        problems.add(at.path, at.line, "must be lower-case letters, digits and inner . _ -")
    return Scheduling(fields.whole("concurrency", 1, _MANY), pool)


def _loop_detection(spec: Fields, on_limit: OnLimit, problems: Problems) -> LoopDetection | None:
    node = spec.get("loop_detection")
    if node is None:
        return None
    fields = Fields(node, problems, ("on", "turns_without_progress"))
    on: OnLimit = "pause" if fields.choice("on", ("fail", "pause"), on_limit) == "pause" else "fail"
    return LoopDetection(on, fields.whole("turns_without_progress", 2, 1000) or 8)


def canonical_text(root: Node) -> str:
    """The definition's values as JSON text, to be stored and read back by `from_json`."""
    return json.dumps(root.plain(), ensure_ascii=False, separators=(",", ":"))
