"""`slipway run` and `slipway runs …`."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.output import FAILED, INTERRUPTED, USAGE, console, errors, fail, print_json_line, show_many, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client, Run, RunEvent

app = typer.Typer(help="Runs of agents.", no_args_is_help=True)

_Run = Annotated[str, typer.Argument(help="Id of the run, run_….")]
_Input = Annotated[str, typer.Option("--input", help="JSON text, or @FILE with JSON.")]
_Label = Annotated[list[str] | None, typer.Option("--label", help="name=value, as often as needed.")]


@at_gateway
def run(
    client: "Client",
    agent: Annotated[str, typer.Argument(help="Name of the agent.")],
    input_text: _Input,
    version: Annotated[int | None, typer.Option(help="Version; by default the one in production.")] = None,
    label: _Label = None,
    priority: Annotated[int | None, typer.Option(help="0 (last) to 9 (first).", min=0, max=9)] = None,
    not_before: Annotated[datetime | None, typer.Option(help="Earliest start, in local time.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print events until the run ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a run. With --follow, --json prints one event a line, and the exit code is 1 when it does not succeed."""
    started = client.runs.start(
        agent,
        parse_input(input_text),
        version=version,
        labels=parse_labels(label),
        priority=priority,
        not_before=not_before.astimezone() if not_before else None,
    )
    if follow:
        if not as_json:
            console.print(f"[bold]{started.run_id}[/]", highlight=False)
        _follow(client, started.run_id, as_json=as_json)
    else:
        show_one(started, as_json=as_json)


@app.command("list")
@at_gateway
def list_(
    client: "Client",
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    state: Annotated[str | None, typer.Option(help="Only runs in this state, e.g. WAITING_APPROVAL.")] = None,
    parent: Annotated[str | None, typer.Option(help="Only child runs of this run.")] = None,
    limit: Annotated[int, typer.Option(help="Most runs.", min=1)] = 50,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    runs = (
        one for one, _ in zip(client.runs.list(agent=agent, state=state, parent=parent), range(limit), strict=False)
    )
    columns = ("run_id", "agent", "version", "state", "caller", "create_time")
    show_many(runs, columns, as_json=as_json, key="runs")


@app.command()
@at_gateway
def show(client: "Client", run_id: _Run, as_json: JsonOption = False) -> None:
    """Show one run."""
    show_one(client.runs.get(run_id), as_json=as_json)


@app.command()
@at_gateway
def watch(client: "Client", run_id: _Run, as_json: JsonOption = False) -> None:
    """Print a run's events, as they come, to its end. The exit code is 1 when it does not succeed."""
    _follow(client, run_id, as_json=as_json)


def parse_input(text: str) -> Any:
    """JSON text, or the JSON in a file when the text is @FILE."""
    try:
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except OSError as error:
        fail(f"the input file cannot be read: {error}", USAGE)
    except ValueError as error:
        fail(f"the input is no JSON: {error}", USAGE)


def parse_labels(pairs: list[str] | None) -> dict[str, str] | None:
    """Labels given as name=value; None for none."""
    return dict(_pair(one) for one in pairs) if pairs else None


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        fail(f"a label is name=value, not {text!r}", USAGE)
    return name, value


def _follow(client: "Client", run_id: str, *, as_json: bool) -> None:
    try:
        for event in client.runs.follow(run_id):
            if event.kind == "model.delta":
                continue
            if as_json:
                print_json_line(event.model_dump(mode="json"))
            else:
                _print_event(event)
    except KeyboardInterrupt:
        errors.print(f"the run goes on: slipway runs watch {run_id}", highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    ended = client.runs.get(run_id)
    if not as_json:
        _print_end(ended)
    if ended.state != "SUCCEEDED":
        raise typer.Exit(FAILED)


def _print_event(event: "RunEvent") -> None:
    time = event.time.astimezone().strftime("%H:%M:%S") if event.time else ""
    text = json.dumps(event.data, ensure_ascii=False) if event.data else ""
    step = event.step_id or ""
    console.print(
        f"[dim]{event.seq:>4} {time}[/] [cyan]{escape(event.kind):<20}[/] [bold]{escape(step):<12}[/] "
        f"{escape(text[:400])}{'…' if len(text) > 400 else ''}",
        highlight=False,
        soft_wrap=True,
    )


def _print_end(ended: "Run") -> None:
    if ended.error:
        step = f" in step {ended.error.step}" if ended.error.step else ""
        console.print(f"[red]{ended.state}[/]{step}: {escape(ended.error.message)} ({ended.error.code})")
    else:
        console.print(f"[green]{ended.state}[/] {escape(json.dumps(ended.output, ensure_ascii=False))}")
