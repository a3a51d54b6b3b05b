"""`slipway approvals …`."""

from typing import Annotated, Any

import typer

from slipway_cli import session
from slipway_cli.commands.runs import parse_input
from slipway_cli.output import exit_codes, show_many, show_one
from slipway_cli.session import DEFAULT_DATA_DIR, AsOption, DataDirOption, JsonOption, UrlOption

app = typer.Typer(help="Decisions that runs wait for.", no_args_is_help=True)

_Approval = Annotated[str, typer.Argument(help="Id of the approval, apr_….")]
_Message = Annotated[str | None, typer.Option(help="Why.")]


@app.command("list")
def list_(
    state: Annotated[str, typer.Option(help="pending, approved, edited, rejected, responded, expired.")] = "pending",
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """List approvals."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        columns = ("approval_id", "run_id", "agent_version", "step_id", "tool", "proposer", "expire_time", "state")
        show_many(client.approvals.list(state=state), columns, as_json=as_json, key="approvals")


@app.command()
def show(
    approval_id: _Approval,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show exactly what would be approved."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.approvals.get(approval_id), as_json=as_json)


def _decide(
    approval_id: str,
    decision: str,
    where: tuple[Any, str | None, str | None],
    *,
    as_json: bool,
    arguments: Any = None,
    message: str | None = None,
) -> None:
    with exit_codes(), session.connect(*where) as client:
        shown = client.approvals.get(approval_id)
        decided = client.approvals.decide(shown, decision, arguments=arguments, message=message)
        show_one(decided, as_json=as_json)


@app.command()
def approve(
    approval_id: _Approval,
    message: _Message = None,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Let the action go on as shown."""
    _decide(approval_id, "approve", (data_dir, user, url), as_json=as_json, message=message)


@app.command()
def edit(
    approval_id: _Approval,
    arguments: Annotated[str, typer.Option(help="The new arguments: JSON text, or @FILE.")],
    message: _Message = None,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Change the arguments; another person must then approve them."""
    changed = parse_input(arguments)
    _decide(approval_id, "edit", (data_dir, user, url), as_json=as_json, arguments=changed, message=message)


@app.command()
def reject(
    approval_id: _Approval,
    message: Annotated[str, typer.Option(help="Why.")],
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Do not let the action go on."""
    _decide(approval_id, "reject", (data_dir, user, url), as_json=as_json, message=message)


@app.command()
def respond(
    approval_id: _Approval,
    response: Annotated[str, typer.Option(help="The answer to use: JSON text, or @FILE.")],
    message: _Message = None,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Answer in place of the tool."""
    answer = parse_input(response)
    _decide(approval_id, "respond", (data_dir, user, url), as_json=as_json, arguments=answer, message=message)
