"""Models, decisions and comparisons through the client."""

import json
from decimal import Decimal

from slipway_client import Client
from slipway_testkit.scripted_server import ScriptedServer, answers

DECISION = {
    "route": "short",
    "policy": "cheapest",
    "catalogue_digest": "sha256:1",
    "candidates": [{"model": "a", "eligible": True, "reason": "healthy", "score": -0.5}],
}


def test_a_request_is_explained_with_what_it_demands(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(DECISION))
    decision = client.models.explain(
        text="sum it up", task="summarize", quality="standard", max_cost_usd=Decimal("0.01"), regions=["eu"]
    )
    assert (decision.policy, decision.candidates[0].score) == ("cheapest", -0.5)
    asked = gateway.asked[0]
    assert (asked.method, asked.path) == ("POST", "/v1/models/explain")
    assert json.loads(asked.body) == {
        "model": "",
        "messages": [{"role": "user", "content": "sum it up"}],
        "slipway": {"task": "summarize", "quality": "standard", "max_cost_usd": "0.01", "regions": ["eu"]},
    }


def test_an_empty_demand_of_regions_stays_a_demand(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers(DECISION))
    client.models.explain(regions=[])
    assert json.loads(gateway.asked[0].body)["slipway"] == {"regions": []}


def test_the_decision_on_a_call_is_read(gateway: ScriptedServer, client: Client) -> None:
    gateway.then(answers({"request_id": "req_1", "decision": DECISION, "attempts": [], "outcome": "ok"}))
    assert client.models.decision("req_1").decision.route == "short"
    assert gateway.asked[0].path == "/v1/usage/req_1/routing"


def test_routes_are_compared(gateway: ScriptedServer, client: Client) -> None:
    body = {"calls": [{}], "recorded": {}, "replayed": {}, "mean_text_similarity": 0.75, "same_tool_calls": 1}
    gateway.then(answers(body))
    assert client.models.compare("b", recorded_on="a", max_cost_usd=Decimal("0.5")).mean_text_similarity == 0.75
    assert json.loads(gateway.asked[0].body) == {"against": "b", "route": "a", "limit": 20, "max_cost_usd": "0.5"}
