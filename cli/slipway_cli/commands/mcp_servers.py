"""`slipway mcp …`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from slipway_cli import browser
from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.yaml_file import read_mapping
from slipway_cli.output import NOT_NOW, USAGE, fail, print_json, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client, McpServer

app = typer.Typer(help="MCP servers whose tools agents can call.", no_args_is_help=True)

ServerArgument = Annotated[str, typer.Argument(help="Name of the MCP server.")]


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the MCP servers that you may see, and where your logins stand."""
    servers = client.mcp_servers.list()
    if not as_json:
        servers = (one.model_copy(update={"login": _login_of(one)}) for one in servers)
    show_many(servers, ("server", "login", "side_effect", "proposer", "digest"), as_json=as_json, key="servers")


@app.command()
@at_gateway
def show(client: "Client", server: ServerArgument, as_json: JsonOption = False) -> None:
    """Show an MCP server and how it is reached."""
    show_one(client.mcp_servers.get(server), as_json=as_json)


@app.command()
@at_gateway
def connect(
    client: "Client",
    server: ServerArgument,
    address: Annotated[str, typer.Argument(help="URL of its streamable HTTP endpoint.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="The connection (YAML): http or stdio, …", exists=True, dir_okay=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Connect an MCP server; somebody else approves its tools with `slipway tools pin`."""
    if bool(address) == (file is not None):
        fail("give either an address or --file", USAGE)
    connection = read_mapping(file, "http or stdio") if file else {"http": {"url": address}}
    show_one(client.mcp_servers.put(server, connection), as_json=as_json)


@app.command()
@at_gateway
def tools(client: "Client", server: ServerArgument, as_json: JsonOption = False) -> None:
    """List what an MCP server offers now. The exit code is 6 when it does not answer."""
    listing = client.mcp_servers.tools(server)
    if as_json:
        print_json(listing.model_dump(mode="json"))
    else:
        show_many(listing.tools, ("name", "tool", "state", "approver", "fault"), as_json=False, key="tools")
    if listing.fault:
        fail(f"{server} does not answer: {listing.fault}", NOT_NOW)


@app.command()
@at_gateway
def remove(client: "Client", server: ServerArgument) -> None:
    """Disconnect an MCP server and remove its tools."""
    client.mcp_servers.delete(server)


@app.command()
@at_gateway
def login(
    client: "Client",
    server: ServerArgument,
    here: Annotated[
        bool | None,
        typer.Option("--browser/--paste", help="Log in in a browser here, or in any and paste what it shows."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Log in to an MCP server, for yourself or for your tenant, as its connection says."""
    if here if here is not None else browser.is_here():
        response = _by_browser(client, server)
    else:
        begun = client.mcp_servers.begin_login(server)
        typer.echo(f"log in at {begun.authorization_url}\nthen paste the line that the page shows:", err=True)
        response = _pasted(sys.stdin.readline())
    show_one(client.mcp_servers.complete_login(server, response), as_json=as_json)


@app.command()
@at_gateway
def logout(client: "Client", server: ServerArgument) -> None:
    """Forget the tokens of an MCP server, and revoke them where that is possible."""
    revoked = client.mcp_servers.log_out(server)
    typer.echo("logged out" if revoked else "logged out; the authorization server revoked nothing")


def _by_browser(client: "Client", server: str) -> dict[str, str]:
    from slipway_cli.loopback import Listener, NobodyCameError

    with Listener() as listener:
        begun = client.mcp_servers.begin_login(server, loopback_port=listener.port)
        try:
            browser.open_page(begun.authorization_url)
            return listener.wait(begun.state)
        except NobodyCameError:
            fail("nobody logged in in time: start again, or use --paste", NOT_NOW)
        except ValueError as error:
            fail(str(error))


def _pasted(text: str) -> dict[str, str]:
    """What a person pasted: the page's line, or the address that the browser ended at."""
    query = urlsplit(text.strip()).query or text.strip()
    given = {name: values[0] for name, values in parse_qs(query).items()}
    if "state" not in given:
        fail("that is not the line that the page shows", USAGE)
    return given


def _login_of(server: "McpServer") -> str:
    """Where a login stands, for people."""
    login = server.authorization
    if login is None:
        return "takes none"
    if login.state == "VALID":
        if login.refreshable or login.expire_time is None:
            return "valid"
        return f"valid until {login.expire_time.astimezone():%Y-%m-%d %H:%M}"
    return {"NONE": "none", "LOGIN_REQUIRED": "needs login"}.get(login.state, login.state)
