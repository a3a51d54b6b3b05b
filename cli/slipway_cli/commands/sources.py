"""`slipway sources …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.runs import parse_input
from slipway_cli.commands.yaml_file import read_mapping
from slipway_cli.output import USAGE, console, errors, fail, print_json, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="Databases that are queried within what is declared.", no_args_is_help=True)
_COLUMNS = ("source", "version", "regions", "data_classes", "owner", "description")

SourceArgument = Annotated[str, typer.Argument(help="Name of the data source.")]


@app.command("list")
@at_gateway
def list_(client: "Client", as_json: JsonOption = False) -> None:
    """List the data sources that you may read."""
    show_many(client.sources.list(), _COLUMNS, as_json=as_json, key="sources")


@app.command()
@at_gateway
def show(client: "Client", source: SourceArgument, as_json: JsonOption = False) -> None:
    """Show a data source, with its tables and columns."""
    show_one(client.sources.get(source), as_json=as_json)


@app.command()
@at_gateway
def put(
    client: "Client",
    source: SourceArgument,
    file: Annotated[Path, typer.Argument(help="The declaration (YAML).", exists=True, dir_okay=False)],
    as_json: JsonOption = False,
) -> None:
    """Declare or change a data source."""
    show_one(client.sources.put(source, read_mapping(file, "url, tables and more")), as_json=as_json)


@app.command()
@at_gateway
def delete(client: "Client", source: SourceArgument) -> None:
    """Forget a data source; its database is left alone."""
    client.sources.delete(source)


@app.command()
@at_gateway
def query(
    client: "Client",
    source: SourceArgument,
    sql: Annotated[str, typer.Argument(help="One SELECT, with values as :name; or @FILE.")],
    parameters: Annotated[str, typer.Option(help="JSON text of the values by name, or @FILE.")] = "{}",
    limit: Annotated[int, typer.Option(help="Most rows; 0: 100.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Query a data source."""
    values: Any = parse_input(parameters)
    if not isinstance(values, dict):
        fail("--parameters must be a JSON object", USAGE)
    result = client.sources.query(source, _text(sql), values, limit=limit)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    table = Table(*(escape(column["name"]) for column in result.columns), box=None, pad_edge=False)
    for row in result.rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    console.print(table)
    if result.truncated:
        errors.print(f"there are more rows: cut by {result.truncated_by}")
    if result.masked_columns:
        errors.print(f"masked: {', '.join(result.masked_columns)}")


def _text(sql: str) -> str:
    if not sql.startswith("@"):
        return sql
    try:
        return Path(sql[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{sql[1:]} can't be read: {error}", USAGE)
