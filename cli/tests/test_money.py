"""`slipway budgets` and `slipway usage`."""

import json
from collections.abc import Callable

from slipway_testkit.scripted_server import ScriptedServer, answers
from typer.testing import Result

Slipway = Callable[..., Result]

BUDGET = {
    "budget": "each-user",
    "scope": "user",
    "scope_value": "",
    "period": "day",
    "limit_usd": 5.0,
    "balances": [{"scope_value": "alice", "spent_usd": 1.25, "reserved_usd": 0.5}],
}


def test_budgets_are_set_and_shown_with_their_balances(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers(BUDGET, 201), answers(BUDGET), answers(BUDGET), answers({"budgets": [BUDGET]}))
    assert slipway("budgets", "set", "each-user", "--scope", "user", "--period", "day", "--limit", "5").exit_code == 0
    sent = json.loads(gateway.asked[0].body)
    assert sent == {"scope": "user", "scope_value": "", "period": "day", "limit_usd": "5"}
    shown = slipway("budgets", "show", "each-user").stdout
    assert "alice" in shown
    assert "1.25" in shown
    assert json.loads(slipway("budgets", "show", "each-user", "--json").stdout)["balances"][0]["reserved_usd"] == "0.5"
    assert "each-user" in slipway("budgets", "list").stdout


def test_a_budget_without_a_limit_is_refused_before_anything_is_sent(slipway: Slipway, gateway: ScriptedServer) -> None:
    done = slipway("budgets", "set", "b")
    assert (done.exit_code, gateway.asked) == (2, [])
    assert "--limit or --soft-limit" in done.stderr


def test_a_budget_is_deleted(slipway: Slipway, gateway: ScriptedServer) -> None:
    gateway.then(answers(b"", 204))
    assert slipway("budgets", "delete", "b").exit_code == 0
    assert (gateway.asked[0].method, gateway.asked[0].path) == ("DELETE", "/v1/budgets/b")


def test_usage_is_shown_by_any_dimension_or_of_one_call(slipway: Slipway, gateway: ScriptedServer) -> None:
    row = {"request_id": "req_1", "outcome": "ok", "usage": {"cost_usd": 0.25}}
    gateway.then(answers({"groups": [{"key": "desk", "calls": 3, "usage": {"cost_usd": 0.5}}]}), answers(row))
    assert "desk" in slipway("usage", "--group-by", "agent").stdout
    assert gateway.asked[0].path == "/v1/usage?group_by=agent"
    assert json.loads(slipway("usage", "--request", "req_1", "--json").stdout)["usage"]["cost_usd"] == "0.25"
    assert gateway.asked[1].path == "/v1/usage/req_1"
