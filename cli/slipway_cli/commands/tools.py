"""`slipway tools …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.runs import parse_input
from slipway_cli.output import FAILED, USAGE, fail, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="What agents can do.", no_args_is_help=True)


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the tools that you may see."""
    show_many(client.tools.list(), ("tool", "kind", "idempotent", "description"), as_json=as_json, key="tools")


@app.command()
@at_gateway
def apply(
    client: "Client",
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    file: Annotated[Path, typer.Argument(help="The declaration (YAML).", exists=True, dir_okay=False)],
    as_json: JsonOption = False,
) -> None:
    """Declare an HTTP tool."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        declaration = YAML(typ="safe").load(file)
    except (UnicodeDecodeError, YAMLError) as error:
        fail(f"{file} is no YAML: {error}", USAGE)
    if not isinstance(declaration, dict):
        fail(f"{file} must hold a mapping with description, input_schema and http", USAGE)
    show_one(client.tools.put(tool, declaration), as_json=as_json)


@app.command()
@at_gateway
def invoke(
    client: "Client",
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[str, typer.Option(help="JSON text, or @FILE.")] = "{}",
    as_json: JsonOption = False,
) -> None:
    """Call a tool. The exit code is 1 when the tool failed."""
    result = client.tools.invoke(tool, parse_input(arguments))
    show_one(result, as_json=as_json)
    if result.error:
        raise typer.Exit(FAILED)
