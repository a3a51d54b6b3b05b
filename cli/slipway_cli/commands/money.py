"""`slipway models …` and `slipway usage`."""

from typing import Annotated

import typer

from slipway_cli import session
from slipway_cli.output import exit_codes, show_many
from slipway_cli.session import DEFAULT_DATA_DIR, AsOption, DataDirOption, JsonOption, UrlOption

app = typer.Typer(help="Models of the catalogue.", no_args_is_help=True)


@app.command("list")
def list_(
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """List the models and routes that you may use."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_many(client.models.list(), ("id", "owned_by"), as_json=as_json, key="models")


def usage(
    group_by: Annotated[str, typer.Option(help="model, subject, run, task, provider or day.")] = "model",
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show what was used and what it cost."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        columns = ("key", "calls", "usage.input_tokens", "usage.output_tokens", "usage.cost_usd")
        show_many(client.usage.summary(group_by), columns, as_json=as_json, key="groups")
