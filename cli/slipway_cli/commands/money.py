"""`slipway usage`."""

from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client


@at_gateway
def usage(
    client: "Client",
    group_by: Annotated[
        str,
        typer.Option(help="model, subject, run, root_run, agent, user, key, task, provider, outcome, day or month."),
    ] = "model",
    request: Annotated[str | None, typer.Option(metavar="ID", help="Only this call: its x-slipway-request-id.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was used and what it cost."""
    columns = ("key", "calls", "usage.input_tokens", "usage.output_tokens", "usage.cost_usd")
    if request is not None:
        show_one(client.usage.get(request), as_json=as_json)
        return
    show_many(client.usage.summary(group_by), columns, as_json=as_json, key="groups")
