"""Budgets: what calls may cost."""

from typing import Annotated

from fastapi import Path, Response
from slipway.router.v1 import router_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.resources.budgets import Budget, BudgetPage, PutBudget, budget_message, budget_resource
from slipway_gateway.http.route import CallsDep

router = api_router("usage")

BudgetName = Annotated[str, Path(min_length=1, max_length=63)]


@router.put(
    "/budgets/{budget}",
    status_code=201,
    responses={200: {"model": Budget, "description": "The budget existed; it is now as sent."}},
    summary="Create or change a budget",
)
async def put_budget(budget: BudgetName, body: PutBudget, calls: CallsDep, response: Response) -> Budget:
    """Another limit keeps what was spent; another scope or period starts the budget from nothing."""
    answer: pb.UpdateBudgetResponse = await calls.invoke(
        calls.peers.router.UpdateBudget, pb.UpdateBudgetRequest(budget=budget_message(budget, body))
    )
    response.status_code = 201 if answer.created else 200
    return budget_resource(answer.budget)


@router.get("/budgets", summary="List budgets")
async def list_budgets(calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = "") -> BudgetPage:
    """The tenant's budgets by name, with what is spent and reserved in the current period."""
    answer: pb.ListBudgetsResponse = await calls.invoke(
        calls.peers.router.ListBudgets, pb.ListBudgetsRequest(page_size=page_size, page_token=page_token)
    )
    return BudgetPage(
        budgets=[budget_resource(item) for item in answer.budgets], next_page_token=answer.next_page_token or None
    )


@router.get("/budgets/{budget}", summary="Get a budget")
async def get_budget(budget: BudgetName, calls: CallsDep) -> Budget:
    """One budget."""
    answer: pb.GetBudgetResponse = await calls.invoke(calls.peers.router.GetBudget, pb.GetBudgetRequest(name=budget))
    return budget_resource(answer.budget)


@router.delete("/budgets/{budget}", status_code=204, summary="Delete a budget")
async def delete_budget(budget: BudgetName, calls: CallsDep) -> None:
    """It no longer limits anything; what was spent stays in the usage."""
    await calls.invoke(calls.peers.router.DeleteBudget, pb.DeleteBudgetRequest(name=budget))
