"""`slipway approvals …`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.runs import parse_input
from slipway_cli.output import show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="Decisions that runs wait for.", no_args_is_help=True)

_Approval = Annotated[str, typer.Argument(help="Id of the approval, apr_….")]
_Message = Annotated[str | None, typer.Option(help="Why.")]


@app.command("list")
@at_gateway
def list_(
    client: "Client",
    state: Annotated[str, typer.Option(help="pending, approved, edited, rejected, responded, expired.")] = "pending",
    as_json: JsonOption = False,
) -> None:
    """List approvals."""
    columns = ("approval_id", "run_id", "agent_version", "step_id", "tool", "proposer", "expire_time", "state")
    show_many(client.approvals.list(state=state), columns, as_json=as_json, key="approvals")


@app.command()
@at_gateway
def show(client: "Client", approval_id: _Approval, as_json: JsonOption = False) -> None:
    """Show exactly what would be approved."""
    show_one(client.approvals.get(approval_id), as_json=as_json)


def _decide(
    client: "Client",
    approval_id: str,
    decision: str,
    *,
    as_json: bool,
    arguments: Any = None,
    message: str | None = None,
) -> None:
    shown = client.approvals.get(approval_id)
    show_one(client.approvals.decide(shown, decision, arguments=arguments, message=message), as_json=as_json)


@app.command()
@at_gateway
def approve(client: "Client", approval_id: _Approval, message: _Message = None, as_json: JsonOption = False) -> None:
    """Let the action go on as shown."""
    _decide(client, approval_id, "approve", as_json=as_json, message=message)


@app.command()
@at_gateway
def edit(
    client: "Client",
    approval_id: _Approval,
    arguments: Annotated[str, typer.Option(help="The new arguments: JSON text, or @FILE.")],
    message: _Message = None,
    as_json: JsonOption = False,
) -> None:
    """Change the arguments; another person must then approve them."""
    changed = parse_input(arguments)
    _decide(client, approval_id, "edit", as_json=as_json, arguments=changed, message=message)


@app.command()
@at_gateway
def reject(
    client: "Client",
    approval_id: _Approval,
    message: Annotated[str, typer.Option(help="Why.")],
    as_json: JsonOption = False,
) -> None:
    """Do not let the action go on."""
    _decide(client, approval_id, "reject", as_json=as_json, message=message)


@app.command()
@at_gateway
def respond(
    client: "Client",
    approval_id: _Approval,
    response: Annotated[str, typer.Option(help="The answer to use: JSON text, or @FILE.")],
    message: _Message = None,
    as_json: JsonOption = False,
) -> None:
    """Answer in place of the tool."""
    answer = parse_input(response)
    _decide(client, approval_id, "respond", as_json=as_json, arguments=answer, message=message)
