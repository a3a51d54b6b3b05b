"""Budgets and usage over HTTP, and what a caller without money is told."""

from typing import Any

import pytest
from google.type.money_pb2 import Money
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import NotFound, ResourceExhausted


class BudgetExhausted(ResourceExhausted):
    reason = "BUDGET_EXHAUSTED"


class BudgetUnknown(NotFound):
    reason = "BUDGET_UNKNOWN"


def money(units: int = 0, nanos: int = 0) -> Money:
    return Money(currency_code="USD", units=units, nanos=nanos)


def budget() -> pb.Budget:
    made = pb.Budget(
        name="each-user",
        scope=pb.BUDGET_SCOPE_USER,
        period=pb.BUDGET_PERIOD_DAY,
        limit=money(5),
        balances=[pb.BudgetBalance(scope_value="alice", spent=money(1, 250_000_000), reserved=money(0, 1))],
    )
    made.create_time.FromJsonString("2026-01-02T03:04:05Z")
    made.update_time.FromJsonString("2026-01-02T03:04:05Z")
    made.balances[0].period_start_time.FromJsonString("2026-01-02T00:00:00Z")
    made.balances[0].period_end_time.FromJsonString("2026-01-03T00:00:00Z")
    return made


RESOURCE = {
    "budget": "each-user",
    "scope": "user",
    "scope_value": "",
    "period": "day",
    "limit_usd": 5.0,
    "soft_limit_usd": None,
    "create_time": "2026-01-02T03:04:05Z",
    "update_time": "2026-01-02T03:04:05Z",
    "balances": [
        {
            "scope_value": "alice",
            "spent_usd": 1.25,
            "reserved_usd": 1e-09,
            "period_start_time": "2026-01-02T00:00:00Z",
            "period_end_time": "2026-01-03T00:00:00Z",
            "soft_limit_reached": False,
        }
    ],
}


@pytest.mark.parametrize(("created", "status"), [(True, 201), (False, 200)])
def test_a_budget_is_put_with_its_exact_amounts(services: Any, alice: Any, created: bool, status: int) -> None:
    services.on("UpdateBudget", lambda call: pb.UpdateBudgetResponse(budget=budget(), created=created))
    body = {"scope": "user", "period": "day", "limit_usd": "5.000000001", "soft_limit_usd": 0.1}
    answer = alice.put("/v1/budgets/each-user", json=body)
    assert (answer.status_code, answer.json()) == (status, RESOURCE)
    sent = services.last("UpdateBudget").request.budget
    assert (sent.name, sent.scope, sent.scope_value, sent.period) == (
        "each-user",
        pb.BUDGET_SCOPE_USER,
        "",
        pb.BUDGET_PERIOD_DAY,
    )
    assert (sent.limit, sent.soft_limit) == (money(5, 1), money(0, 100_000_000))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"scope": "planet"}, "scope"),
        ({"period": "week"}, "period"),
        ({"limit_usd": -1}, "limit_usd"),
        ({"limit_usd": "0.0000000001"}, "limit_usd"),
        ({"limit": 5}, "limit"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused_with_its_field(alice: Any, wrong: dict[str, Any], field: str) -> None:
    answer = alice.put("/v1/budgets/b", json={"scope": "user", "period": "day", "limit_usd": 5} | wrong)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_budgets_are_listed_read_and_deleted(services: Any, alice: Any) -> None:
    services.on("ListBudgets", lambda call: pb.ListBudgetsResponse(budgets=[budget()], next_page_token="more"))
    services.on("GetBudget", lambda call: pb.GetBudgetResponse(budget=budget()))
    services.on("DeleteBudget", lambda call: pb.DeleteBudgetResponse())
    page = alice.get("/v1/budgets", params={"page_size": 1, "page_token": "here"}).json()
    assert page == {"budgets": [RESOURCE], "next_page_token": "more"}
    assert services.last("ListBudgets").request == pb.ListBudgetsRequest(page_size=1, page_token="here")
    assert alice.get("/v1/budgets/each-user").json() == RESOURCE
    assert alice.delete("/v1/budgets/each-user").status_code == 204
    assert services.last("DeleteBudget").request.name == "each-user"


def test_a_budget_that_is_not_there_is_404(services: Any, alice: Any) -> None:
    def none(call: Any) -> Any:
        raise BudgetUnknown("there is no budget b")

    services.on("GetBudget", none)
    answer = alice.get("/v1/budgets/b")
    assert (answer.status_code, answer.json()["code"]) == (404, "BUDGET_UNKNOWN")


def test_a_caller_without_money_is_told_which_budget_and_how_much_by_402(services: Any, alice: Any) -> None:
    facts = {"budget": "each-user", "limit_usd": "5", "spent_usd": "4.99", "resets": "2026-01-03T00:00:00Z"}

    def poor(call: Any) -> Any:
        raise BudgetExhausted("budget each-user of user alice: of 5 USD a day, 4.99 are spent", metadata=facts)

    services.on("CreateChatCompletion", poor)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    answer = alice.post("/v1/chat/completions", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["metadata"]) == (402, "BUDGET_EXHAUSTED", facts)
    assert problem["error"]["type"] == "insufficient_quota"
    assert problem["detail"].startswith("budget each-user of user alice")


@pytest.mark.parametrize("group_by", ["root_run", "agent", "user", "key", "outcome", "month"])
def test_usage_is_added_up_by_who_pays(services: Any, alice: Any, group_by: str) -> None:
    usage = pb.Usage(input_tokens=1, cache_write_tokens=2, image_tokens=3, cost=money(1), estimated=True)
    group = pb.UsageGroup(key="x", calls=2, usage=usage)
    services.on("SummarizeUsage", lambda call: pb.SummarizeUsageResponse(groups=[group]))
    answer = alice.get("/v1/usage", params={"group_by": group_by}).json()
    assert services.last("SummarizeUsage").request.group_by == group_by
    tokens = {"input_tokens": 1, "cached_input_tokens": 0, "cache_write_tokens": 2, "image_tokens": 3}
    rest = {"output_tokens": 0, "reasoning_tokens": 0, "cost_usd": 1.0, "estimated": True, "cached": False}
    assert answer == {"group_by": group_by, "groups": [{"key": "x", "calls": 2, "usage": tokens | rest}]}


def test_the_usage_of_one_call_names_run_and_agent_that_paid(services: Any, alice: Any) -> None:
    row = pb.UsageRow(request_id="req_1", run_id="run_2", root_run_id="run_1", agent_version="desk@3", outcome="ok")
    services.on("ListUsage", lambda call: pb.ListUsageResponse(rows=[row]))
    answer = alice.get("/v1/usage/req_1").json()
    assert (answer["run_id"], answer["root_run_id"], answer["agent_version"]) == ("run_2", "run_1", "desk@3")
