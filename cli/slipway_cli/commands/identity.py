"""`slipway login`, `logout`, `token` and `whoami`."""

from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli import browser, oidc, session
from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.login_file import Login, LoginFile
from slipway_cli.output import exit_codes, show_one
from slipway_cli.session import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    DevelopmentSignIn,
    JsonOption,
    UrlOption,
    sign_in_errors,
)

if TYPE_CHECKING:
    from slipway_client import Client

_Password = Annotated[str | None, typer.Option(help="Password; by default the user name, as in the realm that ships.")]


def login(
    user: Annotated[str | None, typer.Option("--as", help="User of the development realm, by password.")] = None,
    password: _Password = None,
    url: UrlOption = None,
    issuer: Annotated[
        str | None, typer.Option(envvar="SLIPWAY_ISSUER", help="OpenID provider; by default the one the gateway names.")
    ] = None,
    client_id: Annotated[
        str, typer.Option(envvar="SLIPWAY_CLIENT_ID", help="Public client of the provider.")
    ] = "slipway-cli",
    device: Annotated[
        bool | None, typer.Option("--device/--browser", help="Sign in on another device, or in a browser here.")
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Sign in and remember it; later commands act as this user, at this gateway."""
    with exit_codes():
        if user is not None:
            DevelopmentSignIn(session.stack(data_dir).issuer, user, password)()
            session.remember(data_dir, user, password)
            typer.echo(f"signed in as {user}")
            return
        gateway = url or session.stack(data_dir).url
        with sign_in_errors():
            provider = oidc.discover(issuer or oidc.issuer_of(gateway), client_id)
            tokens = (
                oidc.by_device(provider, _tell)
                if _wants_device(device)
                else oidc.by_browser(provider, browser.open_page)
            )
        LoginFile(data_dir).save(Login(gateway, provider, tokens))
        with session.connect(data_dir, url=gateway) as client:
            caller = client.whoami()
    typer.echo(f"signed in as {caller.name} ({caller.tenant})")


def logout(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
    """Forget who is signed in, and end the session at the identity provider."""
    with exit_codes():
        kept = LoginFile(data_dir)
        signed_in = kept.login()
        # Forgotten first: a provider that does not answer must not keep anybody signed in here.
        kept.forget()
        if signed_in is not None and signed_in.tokens.refresh:
            with sign_in_errors():
                oidc.revoke(signed_in.provider, signed_in.tokens.refresh)
    typer.echo("signed out")


def _wants_device(chosen: bool | None) -> bool:
    """A browser is used where there is one."""
    return chosen if chosen is not None else not browser.is_here()


def _tell(address: str, code: str) -> None:
    typer.echo(f"open {address}\nand compare the code: {code}", err=True)


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
