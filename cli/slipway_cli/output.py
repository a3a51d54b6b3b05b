"""Tables for people, JSON for programs, and exit codes that mean something."""

import json
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slipway_cli.session import NotSignedInError

if TYPE_CHECKING:
    from pydantic import BaseModel

FAILED = 1
USAGE = 2
DENIED = 3
NOT_FOUND = 4
CONFLICT = 5
NOT_NOW = 6
INTERRUPTED = 130

# Into a pipe, lines are as long as they are: who searches them must find an id in one piece.
_PIPE_WIDTH = 10_000

console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
errors = Console(stderr=True)


@contextmanager
def exit_codes() -> Generator[None]:
    """Turns what went wrong into a sentence and an exit code."""
    from slipway_client import errors as client

    try:
        yield
    except NotSignedInError as error:
        fail(str(error), DENIED)
    except client.SlipwayError as error:
        match error:
            case client.UnauthenticatedError() | client.PermissionDeniedError():
                code = DENIED
            case client.NotFoundError():
                code = NOT_FOUND
            case client.ConflictError():
                code = CONFLICT
            case client.InvalidRequestError():
                code = USAGE
            case client.ConnectionFailedError() | client.UnavailableError() | client.RateLimitedError():
                code = NOT_NOW
            case _:
                code = FAILED
        fail(str(error), code)


def fail(sentence: str, code: int = FAILED) -> NoReturn:
    """Ends the command with a sentence on standard error."""
    errors.print(f"slipway: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def print_json(value: object) -> None:
    """One JSON document on standard output, for people to read too."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_json_line(value: object) -> None:
    """One JSON document on one line: a stream of them is read line by line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def show_one(record: "BaseModel", *, as_json: bool) -> None:
    """One record: all of it as JSON, or its fields, a line each."""
    values = record.model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        if value not in (None, "", [], {}):
            table.add_row(name, escape(_text(value)))
    console.print(table)


def show_many(records: "Iterable[BaseModel]", columns: Sequence[str], *, as_json: bool, key: str) -> None:
    """Many records: all as JSON under `key`, or the named columns (`a.b`: b in a) as a table."""
    rows = [record.model_dump(mode="json") for record in records]
    if as_json:
        print_json({key: rows})
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.rpartition(".")[2].replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(_at(row, column))) for column in columns))
    console.print(table if rows else "[dim]none[/]")


def _at(row: dict[str, Any], column: str) -> object:
    """The value of a column; `usage.cost_usd` lies a level down."""
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _local_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False)


def _local_time(text: str) -> str:
    """A UTC time as people read it; any other text as it is."""
    if len(text) >= 20 and text[10] == "T" and text.endswith("Z"):
        try:
            return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        except ValueError:
            return text
    return text
