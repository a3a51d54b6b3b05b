"""`slipway login`, `token` and `whoami`."""

from typing import Annotated

import typer

from slipway_cli import session
from slipway_cli.output import exit_codes, show_one
from slipway_cli.session import DEFAULT_DATA_DIR, AsOption, DataDirOption, DevelopmentSignIn, JsonOption, UrlOption

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


def whoami(
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show who the gateway takes you for."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.whoami(), as_json=as_json)
