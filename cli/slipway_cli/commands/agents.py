"""`slipway agents …`."""

from pathlib import Path
from typing import Annotated

import typer

from slipway_cli import session
from slipway_cli.output import USAGE, exit_codes, fail, show_many, show_one
from slipway_cli.session import DEFAULT_DATA_DIR, AsOption, DataDirOption, JsonOption, UrlOption

app = typer.Typer(help="Versioned agent definitions and their way to production.", no_args_is_help=True)

_Agent = Annotated[str, typer.Argument(help="Name of the agent.")]
_Version = Annotated[int, typer.Argument(help="Version, from 1.")]
_VERSION_COLUMNS = ("agent", "version", "state", "in_production", "author", "submitter", "reviewer", "digest")


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="The definition (YAML).", exists=True, dir_okay=False)],
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Register a definition as a new version; the same definition is the same version."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = file.read_text()
        name = str(YAML(typ="safe").load(text)["metadata"]["name"])
    except (UnicodeDecodeError, YAMLError, KeyError, TypeError) as error:
        fail(f"{file} is no agent definition with a metadata.name: {error}", USAGE)
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.agents.put(name, text), as_json=as_json)


@app.command("list")
def list_(
    agent: Annotated[str | None, typer.Argument(help="List this agent's versions.")] = None,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """List agents, or one agent's versions."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        if agent:
            show_many(client.agents.versions(agent), _VERSION_COLUMNS, as_json=as_json, key="versions")
        else:
            columns = ("agent", "production_version", "latest_version", "description")
            show_many(client.agents.list(), columns, as_json=as_json, key="agents")


@app.command()
def submit(
    agent: _Agent,
    version: _Version,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Ask for review of a version."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.agents.submit(agent, version), as_json=as_json)


@app.command()
def approve(
    agent: _Agent,
    version: _Version,
    message: Annotated[str, typer.Option(help="Why.")] = "",
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Approve a version that somebody else submitted."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.agents.approve(agent, version, message), as_json=as_json)


@app.command()
def reject(
    agent: _Agent,
    version: _Version,
    message: Annotated[str, typer.Option(help="Why.")],
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Turn a version down."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.agents.reject(agent, version, message), as_json=as_json)


@app.command()
def promote(
    agent: _Agent,
    version: _Version,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Make an approved version the one that runs use."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.agents.promote(agent, version), as_json=as_json)


@app.command()
def rollback(
    agent: _Agent,
    user: AsOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    as_json: JsonOption = False,
) -> None:
    """Go back to the version that was in production before."""
    with exit_codes(), session.connect(data_dir, user, url) as client:
        show_one(client.agents.rollback(agent), as_json=as_json)
