"""`slipway agents …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import USAGE, fail, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="Versioned agent definitions and their way to production.", no_args_is_help=True)

_Agent = Annotated[str, typer.Argument(help="Name of the agent.")]
_Version = Annotated[int, typer.Argument(help="Version, from 1.")]
_VERSION_COLUMNS = ("agent", "version", "state", "in_production", "author", "submitter", "reviewer", "digest")


@app.command()
@at_gateway
def apply(
    client: "Client",
    file: Annotated[Path, typer.Argument(help="The definition (YAML).", exists=True, dir_okay=False)],
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
    show_one(client.agents.put(name, text), as_json=as_json)


@app.command("list")
@at_gateway
def list_(
    client: "Client",
    agent: Annotated[str | None, typer.Argument(help="List this agent's versions.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List agents, or one agent's versions."""
    if agent:
        show_many(client.agents.versions(agent), _VERSION_COLUMNS, as_json=as_json, key="versions")
    else:
        columns = ("agent", "production_version", "latest_version", "description")
        show_many(client.agents.list(), columns, as_json=as_json, key="agents")


@app.command()
@at_gateway
def submit(client: "Client", agent: _Agent, version: _Version, as_json: JsonOption = False) -> None:
    """Ask for review of a version."""
    show_one(client.agents.submit(agent, version), as_json=as_json)


@app.command()
@at_gateway
def approve(
    client: "Client",
    agent: _Agent,
    version: _Version,
    message: Annotated[str, typer.Option(help="Why.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Approve a version that somebody else submitted."""
    show_one(client.agents.approve(agent, version, message), as_json=as_json)


@app.command()
@at_gateway
def reject(
    client: "Client",
    agent: _Agent,
    version: _Version,
    message: Annotated[str, typer.Option(help="Why.")],
    as_json: JsonOption = False,
) -> None:
    """Turn a version down."""
    show_one(client.agents.reject(agent, version, message), as_json=as_json)


@app.command()
@at_gateway
def promote(client: "Client", agent: _Agent, version: _Version, as_json: JsonOption = False) -> None:
    """Make an approved version the one that runs use."""
    show_one(client.agents.promote(agent, version), as_json=as_json)


@app.command()
@at_gateway
def suspend(
    client: "Client",
    agent: _Agent,
    reason: Annotated[str, typer.Option(help="Why.")],
    as_json: JsonOption = False,
) -> None:
    """Pull the agent's kill switch: no run starts, and those under way pause."""
    show_one(client.agents.suspend(agent, reason), as_json=as_json)


@app.command()
@at_gateway
def resume(client: "Client", agent: _Agent, as_json: JsonOption = False) -> None:
    """Lift the agent's kill switch: runs start again, and those that it paused go on."""
    show_one(client.agents.resume(agent), as_json=as_json)


@app.command()
@at_gateway
def rollback(client: "Client", agent: _Agent, as_json: JsonOption = False) -> None:
    """Go back to the version that was in production before."""
    show_one(client.agents.rollback(agent), as_json=as_json)
