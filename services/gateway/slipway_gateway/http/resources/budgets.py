"""What calls may cost."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.money import to_money

from slipway_gateway.http.resources.fields import Command, Page, Resource, dollars, state_name, time_of

Scope = Literal["tenant", "agent", "user", "key", "run"]
Period = Literal["day", "month", "total"]
Dollars = Annotated[Decimal, Field(ge=0, le=1_000_000_000, decimal_places=9)]

_SCOPES: "dict[Scope, pb.BudgetScope.ValueType]" = {
    "tenant": pb.BUDGET_SCOPE_TENANT,
    "agent": pb.BUDGET_SCOPE_AGENT,
    "user": pb.BUDGET_SCOPE_USER,
    "key": pb.BUDGET_SCOPE_KEY,
    "run": pb.BUDGET_SCOPE_RUN,
}
_PERIODS: "dict[Period, pb.BudgetPeriod.ValueType]" = {
    "day": pb.BUDGET_PERIOD_DAY,
    "month": pb.BUDGET_PERIOD_MONTH,
    "total": pb.BUDGET_PERIOD_TOTAL,
}


class PutBudget(Command):
    """A budget as it shall be."""

    scope: Scope = Field(description="Whose calls count.")
    scope_value: str = Field(
        "", max_length=255, description="Which agent, user, key or root run; empty: each has the budget for itself."
    )
    period: Period = Field(description="When it starts anew, by the UTC calendar.")
    limit_usd: Dollars | None = Field(None, description="No call is sent whose worst case does not fit in.")
    soft_limit_usd: Dollars | None = Field(None, description="An event is recorded when this is spent.")


class BudgetBalance(Resource):
    """What happened in the current period."""

    scope_value: str = Field(description="The agent, user, key or run; the tenant for the scope `tenant`.")
    spent_usd: float = Field(description="Cost of calls that have ended.")
    reserved_usd: float = Field(description="Worst case of calls under way.")
    period_start_time: datetime | None
    period_end_time: datetime | None
    soft_limit_reached: bool


class Budget(Resource):
    """What calls may cost, whose, and in which time. A budget counts calls from its creation on."""

    budget: str
    scope: str = Field(description="`tenant`, `agent`, `user`, `key` or `run`.")
    scope_value: str
    period: str = Field(description="`day`, `month` or `total`.")
    limit_usd: float | None
    soft_limit_usd: float | None
    create_time: datetime | None
    update_time: datetime | None
    balances: list[BudgetBalance] = Field(description="At most 100, the most spent first.")


class BudgetPage(Page):
    """Budgets, by name."""

    budgets: list[Budget]


def budget_message(name: str, body: PutBudget) -> pb.Budget:
    """Converts what was sent."""
    message = pb.Budget(
        name=name, scope=_SCOPES[body.scope], scope_value=body.scope_value, period=_PERIODS[body.period]
    )
    if body.limit_usd is not None:
        message.limit.CopyFrom(to_money(body.limit_usd))
    if body.soft_limit_usd is not None:
        message.soft_limit.CopyFrom(to_money(body.soft_limit_usd))
    return message


def budget_resource(message: pb.Budget) -> Budget:
    """Converts a budget."""
    return Budget(
        budget=message.name,
        scope=state_name(pb.BudgetScope.Name(message.scope), "BUDGET_SCOPE_").lower(),
        scope_value=message.scope_value,
        period=state_name(pb.BudgetPeriod.Name(message.period), "BUDGET_PERIOD_").lower(),
        limit_usd=dollars(message.limit) if message.HasField("limit") else None,
        soft_limit_usd=dollars(message.soft_limit) if message.HasField("soft_limit") else None,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
        balances=[
            BudgetBalance(
                scope_value=balance.scope_value,
                spent_usd=dollars(balance.spent),
                reserved_usd=dollars(balance.reserved),
                period_start_time=time_of(balance, "period_start_time"),
                period_end_time=time_of(balance, "period_end_time"),
                soft_limit_reached=balance.soft_limit_reached,
            )
            for balance in message.balances
        ],
    )
