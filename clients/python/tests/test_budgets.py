"""Budgets through the client."""

import json
from decimal import Decimal

from slipway_client import Client
from slipway_testkit.scripted_server import ScriptedServer, answers

BUDGET = {
    "budget": "desk",
    "scope": "agent",
    "scope_value": "desk",
    "period": "month",
    "limit_usd": 0.000125,
    "balances": [{"scope_value": "desk", "spent_usd": 1e-9, "reserved_usd": 0.0}],
}


def test_a_budget_is_put_with_exact_amounts_and_read_back(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(BUDGET, 201))
    made = client.budgets.put(
        "desk",
        scope="agent",
        scope_value="desk",
        period="month",
        limit_usd=Decimal("0.000125"),
        soft_limit_usd="0.0001",
    )
    asked = gateway.asked[0]
    assert (asked.method, asked.path) == ("PUT", "/v1/budgets/desk")
    assert json.loads(asked.body) == {
        "scope": "agent",
        "scope_value": "desk",
        "period": "month",
        "limit_usd": "0.000125",
        "soft_limit_usd": "0.0001",
    }
    assert (made.limit_usd, made.soft_limit_usd) == (Decimal("0.000125"), None)
    assert made.balances[0].spent_usd == Decimal("1E-9")


def test_budgets_are_listed_over_pages_read_and_deleted(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(
        answers({"budgets": [BUDGET], "next_page_token": "more"}),
        answers({"budgets": [BUDGET | {"budget": "other"}]}),
        answers(BUDGET),
        answers(b"", 204),
    )
    assert [found.budget for found in client.budgets.list()] == ["desk", "other"]
    assert client.budgets.get("desk").scope == "agent"
    client.budgets.delete("desk")
    assert [(asked.method, asked.path) for asked in gateway.asked[2:]] == [
        ("GET", "/v1/budgets/desk"),
        ("DELETE", "/v1/budgets/desk"),
    ]
