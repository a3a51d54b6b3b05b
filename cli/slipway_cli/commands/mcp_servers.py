"""`slipway mcp …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.yaml_file import read_mapping
from slipway_cli.output import NOT_NOW, USAGE, fail, print_json, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="MCP servers whose tools agents can call.", no_args_is_help=True)

ServerArgument = Annotated[str, typer.Argument(help="Name of the MCP server.")]


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the MCP servers that you may see."""
    columns = ("server", "side_effect", "proposer", "digest")
    show_many(client.mcp_servers.list(), columns, as_json=as_json, key="servers")


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
