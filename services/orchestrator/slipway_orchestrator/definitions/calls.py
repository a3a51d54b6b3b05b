"""Reading what a step does that has no other steps within it."""

from datetime import datetime

from pydantic import JsonValue

from slipway_orchestrator.core.definition import (
    AgentCall,
    Approval,
    Call,
    ModelCall,
    Retrieve,
    SetValue,
    ToolCall,
    Wait,
)
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.gates import read_gate
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node
from slipway_orchestrator.expressions.template import has_expressions


def read_call(step_type: str, fields: Fields, node: Node, problems: Problems) -> Call | None:
    """What the step does; None when it is too broken to be looked at further. `fields` are the whole step's."""
    return _READERS[step_type](fields, node, problems)


def _retrieve(_fields: Fields, node: Node, problems: Problems) -> Call | None:
    inner = Fields(node, problems, ("collection", "query", "limit", "alpha", "metadata"))
    collection, query = inner.text("collection", required=True, most=63), inner.text("query", required=True)
    if collection is None or query is None:
        return None
    return Retrieve(
        collection,
        query,
        inner.whole("limit", 1, 50) or 5,
        inner.number("alpha", 0, 1),
        inner.string_map("metadata", 32),
    )


def _model(_fields: Fields, node: Node, problems: Problems) -> Call | None:
    known = ("prompt", "system", "context", "task", "model", "max_tokens", "temperature")
    inner = Fields(node, problems, known)
    prompt = inner.text("prompt", required=True)
    if prompt is None:
        return None
    if inner.get("task") is None and inner.get("model") is None:
        problems.add(node.path, node.line, "needs a task or a model")
    return ModelCall(
        prompt,
        inner.text("system"),
        inner.text("context"),
        inner.text("task", most=100) or "",
        inner.text("model", most=200) or "",
        inner.whole("max_tokens", 1, 1_000_000),
        inner.number("temperature", 0, 2),
    )


def _tool(fields: Fields, node: Node, problems: Problems) -> Call | None:
    inner = Fields(node, problems, ("name", "arguments"))
    name = inner.text("name", required=True, most=64)
    arguments = _mapping(inner, "arguments", problems)
    approval = fields.get("approval")
    gate = None if approval is None else read_gate(approval, problems, ("when",))
    return None if name is None else ToolCall(name, arguments, gate)


def _approval(_fields: Fields, node: Node, problems: Problems) -> Call | None:
    gate = read_gate(node, problems, ("show",))
    if not isinstance(node.content, dict) or gate is None:
        return None
    show = node.content.get("show")
    if show is None:
        problems.add(f"{node.path}.show", node.line, "is missing: what the approver sees")
        return None
    return Approval(show.plain(), gate)


def _set(_fields: Fields, node: Node, _problems: Problems) -> Call | None:
    return SetValue(node.plain())


def _agent(_fields: Fields, node: Node, problems: Problems) -> Call | None:
    inner = Fields(node, problems, ("name", "input", "version"))
    name, value = inner.text("name", required=True, most=63), _mapping(inner, "input", problems)
    version = inner.whole("version", 1, 1_000_000_000) or 0
    return None if name is None else AgentCall(name, value, version)


def _wait(_fields: Fields, node: Node, problems: Problems) -> Call | None:
    inner = Fields(node, problems, ("for", "until", "signal", "expires"))
    given = [name for name in ("for", "until", "signal") if inner.get(name) is not None]
    if len(given) != 1:
        problems.add(node.path, node.line, "must have exactly one of for, until, signal")
        return None
    expires = inner.get("expires")
    if expires is not None and given != ["signal"]:
        problems.add(expires.path, expires.line, "only a wait for a signal expires")
    until = inner.text("until", most=4096)
    if until is not None and not has_expressions(until) and not _is_time(until):
        at = node.at("until")
        problems.add(at.path, at.line, "must be a time such as 2026-05-01T09:00:00Z, or a template that gives one")
    return Wait(inner.duration("for"), until, inner.text("signal", most=1000), inner.duration("expires"))


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _mapping(fields: Fields, name: str, problems: Problems) -> JsonValue:
    found = fields.get(name)
    if found is None:
        return {}
    if not isinstance(found.content, dict):
        problems.add(found.path, found.line, "must be a mapping")
    return found.plain()


_READERS = {
    "retrieve": _retrieve,
    "model": _model,
    "tool": _tool,
    "approval": _approval,
    "set": _set,
    "agent": _agent,
    "wait": _wait,
}
