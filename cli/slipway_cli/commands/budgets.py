"""`slipway budgets …`."""

from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import USAGE, fail, print_json, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="What model calls may cost.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(metavar="BUDGET", help="Name of the budget.")]


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the tenant's budgets."""
    columns = ("budget", "scope", "scope_value", "period", "limit_usd", "soft_limit_usd")
    show_many(client.budgets.list(), columns, as_json=as_json, key="budgets")


@app.command()
@at_gateway
def show(client: "Client", budget: _Name, as_json: JsonOption = False) -> None:
    """Show what is spent and reserved of a budget in its current period."""
    found = client.budgets.get(budget)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    show_one(found.model_copy(update={"balances": []}), as_json=False)
    columns = ("scope_value", "spent_usd", "reserved_usd", "period_end_time", "soft_limit_reached")
    show_many(found.balances, columns, as_json=False, key="balances")


@app.command("set")
@at_gateway
def set_(
    client: "Client",
    budget: _Name,
    limit: Annotated[str | None, typer.Option(metavar="USD", help="No call that does not fit in is sent.")] = None,
    soft_limit: Annotated[
        str | None, typer.Option(metavar="USD", help="An event is recorded when it is spent.")
    ] = None,
    scope: Annotated[str, typer.Option(help="tenant, agent, user, key or run.")] = "tenant",
    value: Annotated[str, typer.Option(help="Which agent, user, key or run; without it each has its own.")] = "",
    period: Annotated[str, typer.Option(help="day, month or total.")] = "month",
    as_json: JsonOption = False,
) -> None:
    """Make a budget, or change it."""
    if limit is None and soft_limit is None:
        fail("a budget needs --limit or --soft-limit", USAGE)
    made = client.budgets.put(
        budget, scope=scope, scope_value=value, period=period, limit_usd=limit, soft_limit_usd=soft_limit
    )
    show_one(made, as_json=as_json)


@app.command()
@at_gateway
def delete(client: "Client", budget: _Name) -> None:
    """Remove a budget: it no longer limits anything."""
    client.budgets.delete(budget)
