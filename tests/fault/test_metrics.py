"""What Prometheus sees of every process."""

import json
import re
import secrets
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_testing.desk import Order, ended, start, until
from fault_testing.ledger import Ledger
from fault_testing.processes import metric, metric_families, metrics_url, running
from slipway_testkit.stack import Stack

CHART_FILES = Path(__file__).parents[2] / "k8s" / "chart" / "files"
PROCESSES = ("gateway", "router", "orchestrator", "worker-1", "worker-2", "memory", "tools", "audit")

# Slipway's own, the GenAI conventions', and those of every Python process.
_NAME = re.compile(r"(slipway_[a-z]|gen_ai_(client|server)_[a-z]|process_[a-z]|python_[a-z])[a-z0-9_]*")
_UNITS = ("_seconds", "_bytes", "_dollars", "_tokens", "_ratio")
_UNIT_WORDS = re.compile(r"_(ms|milliseconds|millis|minutes|kb|mb|usd)(_|$)")


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_tells_its_metrics_under_one_scheme(stack: Stack, name: str) -> None:
    families = metric_families(stack, name)
    own = {family for family in families if family.startswith("slipway_")}
    assert own, f"{name} tells nothing of its own"
    wrong = {family for family in families if not _NAME.fullmatch(family)}
    wrong |= {family for family in own if _UNIT_WORDS.search(family)}
    # A time, in whatever form, is in seconds, and its name says so.
    wrong |= {
        family
        for family in own
        if families[family].type == "histogram" and not family.endswith(_UNITS) and "usage" not in family
    }
    assert not wrong
    assert all(families[family].documentation for family in families)
    assert "process_resident_memory_bytes" in families


def asked_for() -> set[str]:
    """The series that alert rules and dashboards of the chart name."""
    files = CHART_FILES / "alerts.yaml", *(CHART_FILES / "dashboards").glob("*.json")
    rules: Any = yaml.safe_load(files[0].read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for dashboard in files[1:]:
        expressions += [
            target["expr"] for panel in json.loads(dashboard.read_text())["panels"] for target in panel["targets"]
        ]
    return {name for expression in expressions for name in re.findall(r"\bslipway_[a-z_]+", expression)}


def test_alerts_and_dashboards_ask_for_nothing_that_no_process_tells(stack: Stack) -> None:
    told: set[str] = set()
    for process in PROCESSES:
        for family, kind in metric_families(stack, process).items():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(kind.type, ("",))
            told |= {family.removesuffix("_total") + suffix for suffix in suffixes}
    asked = asked_for()
    assert len(asked) > 20
    assert asked <= told


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_tells_its_health_beside_its_metrics(stack: Stack, name: str) -> None:
    process = running(stack, name)
    assert process is not None
    for path in ("livez", "readyz"):
        url = metrics_url(process).replace("/metrics", f"/{path}")
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.status == 200


def test_a_run_moves_the_counters_of_every_service_that_it_goes_through(stack: Stack, ledger: Ledger) -> None:
    def counts() -> dict[str, float]:
        workers = ("worker-1", "worker-2")
        return {
            "ended": sum(metric(stack, w, "slipway_runs_ended_total", outcome="succeeded") for w in workers),
            "steps": sum(metric(stack, w, "slipway_steps_total", type="tool", outcome="completed") for w in workers),
            "tool calls": metric(stack, "tools", "slipway_tools_call_seconds_count", outcome="ok"),
            "requests": metric(stack, "gateway", "slipway_http_requests_total", status="202"),
            "appended": metric(stack, "audit", "slipway_audit_events_appended_total"),
            "published": metric(stack, "tools", "slipway_outbox_published_total", topic="audit.events"),
        }

    before = counts()
    with stack.as_user("alice") as alice:
        run_id = start(alice, Order(7, f"counted-{secrets.token_hex(4)}"))
        until(lambda: ended(alice, run_id), 60, "the run ends")
        journal = len(list(alice.runs.events(run_id)))

    def moved() -> bool:
        after = counts()
        grown = {name: after[name] - before[name] for name in before}
        exact = {name: grown[name] for name in ("ended", "steps", "tool calls", "requests", "published")}
        return (
            exact == {"ended": 1, "steps": 2, "tool calls": 2, "requests": 1, "published": 2}
            and grown["appended"] >= journal
        )

    until(moved, 30, f"the counters move: before {before}, after {counts()}")
    until(lambda: metric(stack, "orchestrator", "slipway_outbox_backlog") == 0, 30, "the outbox is empty")
