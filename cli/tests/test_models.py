"""`slipway models`: the catalogue, why a model was chosen, how routes compare."""

import json
from collections.abc import Callable

from slipway_testkit.scripted_server import ScriptedServer, answers
from typer.testing import Result

Slipway = Callable[..., Result]

DECISION = {
    "route": "short",
    "policy": "cheapest",
    "task": "summarize",
    "task_source": "stated",
    "catalogue_digest": "sha256:1",
    "candidates": [
        {"model": "small", "eligible": True, "reason": "healthy", "score": -0.0001, "expected_cost_usd": 0.0001},
        {"model": "far", "eligible": False, "reason": "far is in us, outside of eu", "hurdle": "region"},
    ],
}


def test_a_choice_is_explained_with_reasons_and_scores(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers(DECISION))
    done = slipway("models", "explain", "--task", "summarize", "--region", "eu", "--quality", "standard")
    assert done.exit_code == 0, done.stderr
    assert "cheapest" in done.stdout
    assert "far is in us, outside of eu" in done.stdout
    assert "-0.0001" in done.stdout
    assert json.loads(gateway.asked[0].body)["slipway"] == {
        "task": "summarize",
        "quality": "standard",
        "regions": ["eu"],
    }


def test_a_call_that_was_sent_is_explained_with_its_attempts(slipway: Slipway, gateway: ScriptedServer) -> None:
    attempt = {"model": "small", "outcome": "PROVIDER_UNAVAILABLE", "status": 503, "latency_ms": 12, "hedge": False}
    sent = {"request_id": "req_1", "decision": DECISION, "attempts": [attempt], "outcome": "ok"}
    gateway.then(answers(sent), answers(sent))
    done = slipway("models", "explain", "--request", "req_1")
    assert "PROVIDER_UNAVAILABLE" in done.stdout
    assert json.loads(slipway("models", "explain", "--request", "req_1", "--json").stdout)["outcome"] == "ok"


def test_models_and_routes_are_listed(slipway: Slipway, gateway: ScriptedServer) -> None:
    model = {"kind": "chat", "health": "healthy", "regions": ["eu"], "input_price_usd_per_million": 0.04}
    route = {"kind": "chat", "health": "healthy", "route": True, "candidates": ["small"]}
    gateway.then(answers({"data": [{"id": "small", "slipway": model}, {"id": "default", "slipway": route}]}))
    lines = slipway("models", "list").stdout.splitlines()
    assert "0.04" in lines[1]
    assert '["small"]' in lines[2]


def test_a_comparison_shows_both_sides(slipway: Slipway, gateway: ScriptedServer) -> None:
    side = {"request_id": "req_1", "catalogue_model": "small", "outcome": "ok", "latency_ms": 30}
    totals = {"answered": 1, "failed": 0, "median_latency_ms": 30}
    body = {
        "calls": [{"recorded": side, "replayed": side | {"catalogue_model": "large"}, "text_similarity": 0.5}],
        "recorded": totals,
        "replayed": totals,
        "mean_text_similarity": 0.5,
        "same_tool_calls": 1,
        "note": "the ceiling of 0.5 USD leaves no room for more",
    }
    gateway.then(answers(body))
    done = slipway("models", "compare", "large", "--route", "default", "--max-cost-usd", "0.5")
    assert done.exit_code == 0, done.stderr
    assert "large" in done.stdout
    assert "leaves no room" in done.stdout
    assert slipway("models", "compare", "large", "--max-cost-usd", "much").exit_code == 2
