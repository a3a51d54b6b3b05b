"""The budget methods of slipway.router.v1."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from slipway.router.v1 import router_pb2 as pb
from slipway.router.v1 import router_pb2_grpc
from slipway_chassis.caller import Caller, current_caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.money import from_money, to_money
from slipway_chassis.paging import decode_token, encode_token, page_size
from slipway_chassis.policy import PolicyDecision, Resource

from slipway_router.budgets import Balance, Budget, Period, Scope, Terms, check

_SCOPES = {
    pb.BUDGET_SCOPE_TENANT: Scope.TENANT,
    pb.BUDGET_SCOPE_AGENT: Scope.AGENT,
    pb.BUDGET_SCOPE_USER: Scope.USER,
    pb.BUDGET_SCOPE_KEY: Scope.KEY,
    pb.BUDGET_SCOPE_RUN: Scope.RUN,
}
_PERIODS = {
    pb.BUDGET_PERIOD_DAY: Period.DAY,
    pb.BUDGET_PERIOD_MONTH: Period.MONTH,
    pb.BUDGET_PERIOD_TOTAL: Period.TOTAL,
}
_SCOPE_OF = {scope: number for number, scope in _SCOPES.items()}
_PERIOD_OF = {period: number for number, period in _PERIODS.items()}


class Policy(Protocol):
    """The policy engine, as far as it is used here."""

    def authorize(self, caller: Caller, action: str, resource: Resource) -> PolicyDecision: ...


class Budgets(Protocol):
    """Where budgets are kept, see budget_store."""

    async def page(self, tenant: str, *, after: str, limit: int) -> Sequence[Budget]: ...
    async def get(self, tenant: str, name: str) -> Budget: ...
    async def put(self, caller: Caller, name: str, terms: Terms, policy: PolicyDecision) -> tuple[Budget, bool]: ...
    async def delete(self, caller: Caller, name: str, policy: PolicyDecision) -> None: ...


class BudgetMethods(router_pb2_grpc.RouterServiceServicer):
    """Serves the methods on budgets."""

    def __init__(self, budgets: Budgets, policy: Policy) -> None:
        self._budgets = budgets
        self._budget_policy = policy

    async def GetBudget(self, request: pb.GetBudgetRequest, context: Any) -> pb.GetBudgetResponse:
        """One budget of the caller's tenant."""
        caller, _ = self._may("ReadBudget", request.name)
        return pb.GetBudgetResponse(budget=_message(await self._budgets.get(caller.tenant, request.name)))

    async def ListBudgets(self, request: pb.ListBudgetsRequest, context: Any) -> pb.ListBudgetsResponse:
        """Budgets of the caller's tenant, by name."""
        caller, _ = self._may("ReadBudget", "")
        size = page_size(request.page_size, 100, 200)
        after = decode_token(caller.tenant, "ListBudgets", request.page_token, [str])
        budgets = await self._budgets.page(caller.tenant, after=str(after[0]) if after else "", limit=size + 1)
        token = encode_token(caller.tenant, "ListBudgets", budgets[size - 1].name) if len(budgets) > size else ""
        return pb.ListBudgetsResponse(budgets=[_message(budget) for budget in budgets[:size]], next_page_token=token)

    async def UpdateBudget(self, request: pb.UpdateBudgetRequest, context: Any) -> pb.UpdateBudgetResponse:
        """Make a budget, or change it."""
        name, terms = _terms(request.budget)
        check(name, terms)
        caller, policy = self._may("ManageBudget", name)
        budget, created = await self._budgets.put(caller, name, terms, policy)
        return pb.UpdateBudgetResponse(budget=_message(budget), created=created)

    async def DeleteBudget(self, request: pb.DeleteBudgetRequest, context: Any) -> pb.DeleteBudgetResponse:
        """Remove a budget."""
        caller, policy = self._may("ManageBudget", request.name)
        await self._budgets.delete(caller, request.name, policy)
        return pb.DeleteBudgetResponse()

    def _may(self, action: str, name: str) -> tuple[Caller, PolicyDecision]:
        caller = current_caller()
        resource = Resource(type="Budget", id=name or caller.tenant, tenant=caller.tenant, attributes={"name": name})
        return caller, self._budget_policy.authorize(caller, action, resource)


def _terms(budget: pb.Budget) -> tuple[str, Terms]:
    scope, period = _SCOPES.get(budget.scope), _PERIODS.get(budget.period)
    if scope is None:
        raise InvalidArgument(f"scope must be one of {', '.join(Scope)}", field="budget.scope")
    if period is None:
        raise InvalidArgument(f"period must be one of {', '.join(Period)}", field="budget.period")
    limit = from_money(budget.limit, field="budget.limit") if budget.HasField("limit") else None
    soft_limit = from_money(budget.soft_limit, field="budget.soft_limit") if budget.HasField("soft_limit") else None
    return budget.name, Terms(scope, budget.scope_value, period, limit, soft_limit)


def _message(budget: Budget) -> pb.Budget:
    terms = budget.terms
    return pb.Budget(
        name=budget.name,
        scope=_SCOPE_OF[terms.scope],
        scope_value=terms.value,
        period=_PERIOD_OF[terms.period],
        limit=_money(terms.limit),
        soft_limit=_money(terms.soft_limit),
        create_time=_timestamp(budget.create_time),
        update_time=_timestamp(budget.update_time),
        balances=[_balance(balance) for balance in budget.balances],
    )


def _balance(balance: Balance) -> pb.BudgetBalance:
    return pb.BudgetBalance(
        scope_value=balance.value,
        spent=to_money(balance.spent),
        reserved=to_money(balance.reserved),
        period_start_time=_timestamp(balance.period_start),
        period_end_time=_timestamp(balance.period_end),
        soft_limit_reached=balance.soft_limit_reached,
    )


def _money(amount: Decimal | None) -> Money | None:
    return None if amount is None else to_money(amount)


def _timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp
