"""`slipway schedules …` and `slipway suspension`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.runs import parse_input, parse_labels
from slipway_cli.output import USAGE, fail, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

app = typer.Typer(help="Runs that start by the clock.", no_args_is_help=True)

_Agent = Annotated[str, typer.Argument(help="Name of the agent.")]
_Schedule = Annotated[str, typer.Argument(help="Name of the schedule.")]


@app.command()
@at_gateway
def put(
    client: "Client",
    agent: _Agent,
    schedule: _Schedule,
    cron: Annotated[str, typer.Option(help="minute hour day-of-month month day-of-week, e.g. '0 7 * * 1-5'.")],
    time_zone: Annotated[str, typer.Option(help="Of the tz database, e.g. Europe/Berlin.")] = "UTC",
    input_text: Annotated[str | None, typer.Option("--input", help="JSON text, or @FILE with JSON.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="name=value, as often as needed.")] = None,
    priority: Annotated[int | None, typer.Option(help="0 (last) to 9 (first).", min=0, max=9)] = None,
    overlap: Annotated[str | None, typer.Option(help="skip (the default), queue or cancel_older.")] = None,
    catch_up: Annotated[str | None, typer.Option(help="How late a run still starts, e.g. 1h.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Start nothing for now.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create or replace a schedule; its runs act in your name."""
    value: Any = parse_input(input_text) if input_text is not None else None
    saved = client.schedules.put(
        agent,
        schedule,
        cron,
        time_zone=time_zone,
        input=value,
        labels=parse_labels(label),
        priority=priority,
        overlap=overlap,
        catch_up=catch_up,
        paused=paused,
    )
    show_one(saved, as_json=as_json)


@app.command("list")
@at_gateway
def list_(client: "Client", agent: _Agent, as_json: JsonOption = False) -> None:
    """List an agent's schedules."""
    columns = ("schedule", "cron", "time_zone", "next_time", "last_outcome", "last_run_id", "paused", "stop_reason")
    show_many(client.schedules.list(agent), columns, as_json=as_json, key="schedules")


@app.command()
@at_gateway
def show(client: "Client", agent: _Agent, schedule: _Schedule, as_json: JsonOption = False) -> None:
    """Show one schedule, with what came of its last due time."""
    show_one(client.schedules.get(agent, schedule), as_json=as_json)


@app.command()
@at_gateway
def delete(client: "Client", agent: _Agent, schedule: _Schedule) -> None:
    """End a schedule; runs that it started go on."""
    client.schedules.delete(agent, schedule)


@at_gateway
def suspension(
    client: "Client",
    suspend: Annotated[bool, typer.Option("--suspend", help="Stop all agents.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Let them run again.")] = False,
    scope: Annotated[str, typer.Option(help="TENANT, or ALL for everything.")] = "TENANT",
    reason: Annotated[str, typer.Option(help="Why; required to suspend.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show, pull or lift the kill switch of the tenant or of everything."""
    if suspend and resume:
        fail("either --suspend or --resume", USAGE)
    if suspend or resume:
        found = client.kill_switch.put(suspended=suspend, reason=reason, scope=scope.upper())
    else:
        found = client.kill_switch.get()
    show_many(found, ("scope", "reason", "suspended_by", "create_time"), as_json=as_json, key="suspensions")
