"""`slipway tools …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.runs import parse_input
from slipway_cli.commands.yaml_file import read_mapping
from slipway_cli.output import FAILED, USAGE, errors, fail, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client, McpServerTool

app = typer.Typer(help="What agents can do.", no_args_is_help=True)
_COLUMNS = ("tool", "kind", "version", "side_effect", "quarantine", "description")

ToolArgument = Annotated[str, typer.Argument(help="Name of the tool.")]


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the tools that you may see."""
    show_many(client.tools.list(), _COLUMNS, as_json=as_json, key="tools")


@app.command()
@at_gateway
def show(client: "Client", tool: ToolArgument, version: int = 0, as_json: JsonOption = False) -> None:
    """Show a tool, with its schemas."""
    show_one(client.tools.get(tool, version=version), as_json=as_json)


@app.command()
@at_gateway
def versions(client: "Client", tool: ToolArgument, as_json: JsonOption = False) -> None:
    """List a tool's versions, newest first."""
    show_many(client.tools.versions(tool), ("version", "digest", "create_time"), as_json=as_json, key="tools")


@app.command()
@at_gateway
def policy(
    client: "Client",
    tool: ToolArgument,
    tainted: Annotated[bool, typer.Option(help="Arguments derive from what came from outside.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what policy says of a call by you."""
    show_one(client.tools.policy(tool, arguments_tainted=tainted), as_json=as_json)


@app.command()
@at_gateway
def apply(
    client: "Client",
    tool: ToolArgument,
    file: Annotated[Path, typer.Argument(help="The declaration (YAML).", exists=True, dir_okay=False)],
    as_json: JsonOption = False,
) -> None:
    """Declare an HTTP tool, a Python function, a command or a query."""
    declaration = read_mapping(file, "description, input_schema and one of http, python, shell, sql")
    show_one(client.tools.put(tool, declaration), as_json=as_json)


@app.command("import")
@at_gateway
def import_(
    client: "Client",
    prefix: Annotated[str, typer.Argument(help="First part of the tools' names.")],
    file: Annotated[Path, typer.Argument(help="An OpenAPI document (YAML or JSON).", exists=True, dir_okay=False)],
    operation: Annotated[
        list[str] | None, typer.Option(help="Id of an operation; may be repeated. Without: all.")
    ] = None,
    base_url: Annotated[str, typer.Option(help="In place of the document's first server.")] = "",
    header: Annotated[
        list[str] | None, typer.Option(help="`Name: value` of every tool; credentials as secret:NAME.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Declare the operations of an OpenAPI document as tools."""
    headers: dict[str, str] = {}
    for text in header or ():
        name, separator, value = text.partition(":")
        if not separator:
            fail(f"{text!r} is no header: write `Name: value`", USAGE)
        headers[name.strip()] = value.strip()
    document = read_mapping(file, "an OpenAPI document")
    tools = client.tools.import_openapi(
        document, prefix, operations=operation or (), base_url=base_url, headers=headers
    )
    show_many(tools, _COLUMNS, as_json=as_json, key="tools")


@app.command()
@at_gateway
def invoke(
    client: "Client",
    tool: ToolArgument,
    arguments: Annotated[str, typer.Option(help="JSON text, or @FILE.")] = "{}",
    tainted: Annotated[bool, typer.Option(help="Arguments derive from what came from outside.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Call a tool. The exit code is 1 when the tool failed."""
    result = client.tools.invoke(tool, parse_input(arguments), arguments_tainted=tainted)
    show_one(result, as_json=as_json)
    if result.error:
        raise typer.Exit(FAILED)


@app.command()
@at_gateway
def pin(
    client: "Client",
    server: Annotated[str, typer.Argument(help="MCP server.")],
    tool: Annotated[list[str] | None, typer.Argument(help="Its own names of tools. Without: all that wait.")] = None,
    side_effect: Annotated[str | None, typer.Option(help="read, write or destructive; without: the server's.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Approve tools of an MCP server as it offers them now, after a look at what changes.

    Whoever connected the server can't; a tool that changes between the look and the approval is refused.
    """
    listing = client.mcp_servers.tools(server)
    if listing.fault:
        fail(f"{server} does not answer: {listing.fault}")
    waiting = {one.name: one for one in listing.tools if one.state in ("NEW", "CHANGED")}
    if unknown := [name for name in tool or () if name not in waiting]:
        fail(f"{unknown[0]} does not wait for approval", USAGE)
    chosen = [one for name, one in waiting.items() if not tool or name in tool]
    if not chosen:
        fail(f"nothing of {server} waits for approval", USAGE)
    for one in chosen:
        _show_change(one)
    if not yes and not typer.confirm(f"Approve {len(chosen)} of {server}?", err=True):
        raise typer.Exit(FAILED)
    pins = {one.name: one.digest or "" for one in chosen}
    approved = client.mcp_servers.approve(server, pins, side_effect=side_effect)
    show_many(approved, _COLUMNS, as_json=as_json, key="tools")


def _show_change(tool: "McpServerTool") -> None:
    errors.print(f"{tool.state} {tool.name}", style="bold", markup=False, highlight=False)
    styles: dict[str, Any] = {"+": "green", "-": "red", "@": "cyan"}
    for line in (tool.diff or tool.fault or "").splitlines():
        errors.print(line, style=styles.get(line[:1]), markup=False, highlight=False, soft_wrap=True)
