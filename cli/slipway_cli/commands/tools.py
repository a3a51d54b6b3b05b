"""`slipway tools …`."""

from pathlib import Path
from typing import Annotated

import typer

from slipway_cli import session
from slipway_cli.commands.runs import parse_input
from slipway_cli.output import FAILED, USAGE, exit_codes, fail, show_many, show_one
from slipway_cli.session import DEFAULT_DATA_DIR, AsOption, DataDirOption, JsonOption, UrlOption

app = typer.Typer(help="What agents can do.", no_args_is_help=True)


@app.command("list")
def list_(
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """List the tools that you may see."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_many(client.tools.list(), ("tool", "kind", "idempotent", "description"), as_json=as_json, key="tools")


@app.command()
def apply(
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    file: Annotated[Path, typer.Argument(help="The declaration (YAML).", exists=True, dir_okay=False)],
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
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
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.tools.put(tool, declaration), as_json=as_json)


@app.command()
def invoke(
    tool: Annotated[str, typer.Argument(help="Name of the tool.")],
    arguments: Annotated[str, typer.Option(help="JSON text, or @FILE.")] = "{}",
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Call a tool. The exit code is 1 when the tool failed."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        result = client.tools.invoke(tool, parse_input(arguments))
        show_one(result, as_json=as_json)
    if result.error:
        raise typer.Exit(FAILED)
