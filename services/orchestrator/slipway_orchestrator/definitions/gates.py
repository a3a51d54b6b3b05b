"""Reading what steps share: gates, retries, whom to ask."""

import re
from collections.abc import Sequence

from slipway_orchestrator.core.definition import Escalation, Gate, OnExpiry, Retry
from slipway_orchestrator.definitions.fields import Fields
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node

APPROVER = re.compile(r"(role|user):[^\s:][^\s]{0,199}")
_CODE = re.compile(r"[A-Z][A-Z0-9_]*")
MAX_QUORUM = 20

DEFAULT_RETRY = Retry(8, 1.0, 30.0, frozenset({"UNAVAILABLE"}))
"""For steps that declare none: an executor that is away for a minute (a restart, an upgrade) does not fail a run."""


def read_gate(node: Node, problems: Problems, extra: tuple[str, ...]) -> Gate | None:
    """Who must approve, and when; `extra` names fields that only some gates have."""
    fields = Fields(node, problems, (*extra, "approvers", "quorum", "expires", "on_expiry", "remind"))
    approvers = _approvers(fields, problems)
    quorum = fields.whole("quorum", 1, MAX_QUORUM) or 1
    people = sum(approver.startswith("user:") for approver in approvers)
    if approvers and people == len(approvers) and quorum > people:
        at = node.at("quorum")
        problems.add(f"{node.path}.quorum", at.line, f"only {people} people are named, so {quorum} cannot approve")
    on_expiry: OnExpiry = "fail" if fields.choice("on_expiry", ("reject", "fail"), "reject") == "fail" else "reject"
    when = fields.text("when", most=4096) if "when" in extra else None
    return Gate(approvers, when, fields.duration("expires"), on_expiry, quorum, fields.duration("remind"))


def read_escalation(node: Node | None, problems: Problems) -> Escalation:
    """Whom a run asks when a step failed that says so, or may or may not have happened."""
    if node is None:
        return Escalation()
    fields = Fields(node, problems, ("approvers", "expires", "remind"))
    return Escalation(_approvers(fields, problems), fields.duration("expires"), fields.duration("remind"))


def _approvers(fields: Fields, problems: Problems) -> tuple[str, ...]:
    approvers = fields.texts("approvers", required=True)
    for index, approver in enumerate(approvers):
        if not APPROVER.fullmatch(approver):
            at = fields.node.at(f"approvers[{index}]")
            problems.add(f"{fields.node.path}.approvers[{index}]", at.line, "must be role:NAME or user:NAME")
    return approvers


def read_retry(fields: Fields, step_type: str, retried: Sequence[str], problems: Problems) -> Retry:
    """When a failed attempt is tried again; `retried` are the types of steps that can be."""
    node = fields.get("retry")
    if node is None:
        return DEFAULT_RETRY
    if step_type not in retried:
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
