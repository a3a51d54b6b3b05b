"""`slipway login`, `token` and `whoami`."""

from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli import session
from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import exit_codes, show_one
from slipway_cli.session import DEFAULT_DATA_DIR, DataDirOption, DevelopmentSignIn, JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

_Password = Annotated[str | None, typer.Option(help="Password; by default the user name, as in the realm that ships.")]


def login(
    user: Annotated[str, typer.Option("--as", prompt="User", help="User of the development realm.")],
    password: _Password = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Sign in at the development issuer and remember who; later commands act as this user."""
    with exit_codes():
        DevelopmentSignIn(session.stack(data_dir).issuer, user, password)()
        session.remember(data_dir, user, password)
    typer.echo(f"signed in as {user}")


def token(
    user: Annotated[str, typer.Option("--as", envvar="SLIPWAY_AS", help="User of the development realm.")],
    password: _Password = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Print an access token of a user of the development realm."""
    with exit_codes():
        typer.echo(DevelopmentSignIn(session.stack(data_dir).issuer, user, password)())


@at_gateway
def whoami(client: "Client", as_json: JsonOption = False) -> None:
    """Show who the gateway takes you for."""
    show_one(client.whoami(), as_json=as_json)
