"""Reading one step."""

import re

from pydantic import JsonValue

from slipway_orchestrator.core.definition import (
    Approval,
    Call,
    Gate,
    ModelCall,
    OnExpiry,
    Retrieve,
    Retry,
    SetValue,
    Step,
    ToolCall,
)
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node

STEP_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")
_APPROVER = re.compile(r"(role|user):[^\s:][^\s]{0,199}")
_TYPES = ("retrieve", "model", "tool", "set", "approval")
_LATER = ("parallel", "map", "branch", "agent", "wait", "loop")
_COMMON = ("id", "when", "retry", "on_error", "timeout")
_CODE = re.compile(r"[A-Z][A-Z0-9_]*")

DEFAULT_RETRY = Retry(8, 1.0, 30.0, frozenset({"UNAVAILABLE"}))
"""For steps that declare none: an executor that is away for a minute (a restart, an upgrade) does not fail a run."""
DEFAULT_TIMEOUT = {"retrieve": 60.0, "model": 300.0, "tool": 330.0, "set": 10.0, "approval": 10.0}
"""Seconds of one attempt; tools bound themselves at 5 minutes."""


def read_step(node: Node, problems: Problems) -> Step | None:
    """The step; None when it is too broken to be looked at further."""
    if not isinstance(node.content, dict):
        problems.add(node.path, node.line, "must be a mapping with id and one of " + ", ".join(_TYPES))
        return None
    later = [name for name in _LATER if name in node.content]
    if later:
        child = node.content[later[0]]
        problems.add(child.path, child.line, f"{later[0]} steps are not supported yet")
        return None
    fields = Fields(node, problems, (*_COMMON, *_TYPES))
    types = [name for name in _TYPES if name in node.content]
    if "tool" in types and "approval" in types:
        types.remove("approval")
    if len(types) != 1:
        problems.add(node.path, node.line, "must have exactly one of " + ", ".join(_TYPES))
        return None
    step_id = fields.text("id", required=True)
    if step_id is not None and not STEP_ID.fullmatch(step_id):
        id_node = node.content["id"]
        problems.add(id_node.path, id_node.line, "must be lower-case letters, digits and _, beginning with a letter")
        step_id = None
    call = _READERS[types[0]](fields, node.content[types[0]], problems)
    retry = _retry(fields, types[0], problems)
    on_error = _on_error(fields, problems)
    timeout = fields.duration("timeout", most=3600.0) or DEFAULT_TIMEOUT[types[0]]
    when = fields.text("when", most=4096)
    if step_id is None or call is None:
        return None
    return Step(step_id, call, when, retry, on_error, timeout)


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
    arguments = inner.get("arguments")
    if arguments is not None and not isinstance(arguments.content, dict):
        problems.add(arguments.path, arguments.line, "must be a mapping")
    approval = fields.get("approval")
    gate = None if approval is None else _gate(approval, problems, ("when",))
    if name is None:
        return None
    values: JsonValue = arguments.plain() if arguments is not None else {}
    return ToolCall(name, values, gate)


def _approval(_fields: Fields, node: Node, problems: Problems) -> Call | None:
    gate = _gate(node, problems, ("show",))
    if not isinstance(node.content, dict) or gate is None:
        return None
    show = node.content.get("show")
    if show is None:
        problems.add(f"{node.path}.show", node.line, "is missing: what the approver sees")
        return None
    return Approval(show.plain(), gate)


def _set(_fields: Fields, node: Node, _problems: Problems) -> Call | None:
    return SetValue(node.plain())


_READERS = {"retrieve": _retrieve, "model": _model, "tool": _tool, "approval": _approval, "set": _set}


def _gate(node: Node, problems: Problems, extra: tuple[str, ...]) -> Gate | None:
    fields = Fields(node, problems, (*extra, "approvers", "expires", "on_expiry"))
    approvers = fields.texts("approvers", required=True)
    for index, approver in enumerate(approvers):
        if not _APPROVER.fullmatch(approver):
            problems.add(f"{node.path}.approvers[{index}]", node.line, "must be role:NAME or user:NAME")
    on_expiry: OnExpiry = "fail" if fields.choice("on_expiry", ("reject", "fail"), "reject") == "fail" else "reject"
    when = fields.text("when", most=4096) if "when" in extra else None
    return Gate(approvers, when, fields.duration("expires"), on_expiry)


def _retry(fields: Fields, step_type: str, problems: Problems) -> Retry:
    node = fields.get("retry")
    if node is None:
        return DEFAULT_RETRY
    if step_type in ("set", "approval"):
        problems.add(node.path, node.line, f"a {step_type} step performs nothing that could be retried")
    inner = Fields(node, problems, ("attempts", "backoff", "max_backoff", "on"))
    attempts = inner.whole("attempts", 1, 100, required=True) or 1
    backoff = inner.duration("backoff", most=3600.0) or 1.0
    most = inner.duration("max_backoff", most=86400.0) or max(backoff, 30.0)
    if most < backoff:
        problems.add(node.path, node.line, "max_backoff must not be less than backoff")
    codes = inner.texts("on")
    for index, code in enumerate(codes):
        if not _CODE.fullmatch(code):
            problems.add(f"{node.path}.on[{index}]", node.line, "must be a code such as UNAVAILABLE or TIMEOUT")
    return Retry(attempts, backoff, most, frozenset(codes) or None)


def _on_error(fields: Fields, problems: Problems) -> str:
    node = fields.get("on_error")
    if node is None or node.content == "fail":
        return "fail"
    if node.content == "continue":
        return "continue"
    what = "escalate is" if node.content == "escalate" else "going on at another step is"
    problems.add(node.path, node.line, f"{what} not supported yet; use fail or continue")
    return "fail"
