"""What Prometheus sees of every process."""

import re
import secrets
import urllib.request

import pytest
from fault_testing.desk import Order, ended, start, until
from fault_testing.ledger import Ledger
from fault_testing.processes import metric, metric_families, metrics_url, running
from slipway_testkit.stack import Stack

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
    assert metric(stack, "orchestrator", "slipway_outbox_backlog") == 0
