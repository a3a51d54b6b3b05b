"""`slipway runs …`: what people do to runs that exist."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway_cli.commands.at_gateway import at_gateway
from slipway_cli.commands.runs import parse_input, parse_labels
from slipway_cli.output import FAILED, USAGE, fail, show_one
from slipway_cli.session import JsonOption

if TYPE_CHECKING:
    from slipway_client import Client

_Run = Annotated[str, typer.Argument(help="Id of the run, run_….")]
_Reason = Annotated[str, typer.Option(help="Why.")]


@at_gateway
def cancel(
    client: "Client",
    run_id: Annotated[str | None, typer.Argument(help="Id of the run, run_…; or a filter instead.")] = None,
    agent: Annotated[str | None, typer.Option(help="All unfinished runs of this agent.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="All runs in this state; may be repeated.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="All runs with this name=value; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most runs to cancel by filter.", min=1, max=2000)] = None,
    reason: _Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Break off what they are doing at once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a run to stop, or all that match a filter."""
    filtered = bool(agent or state or label)
    if bool(run_id) == filtered:
        fail("name a run, or a filter: --agent, --state, --label", USAGE)
    if run_id:
        show_one(client.runs.cancel(run_id, reason, force=force), as_json=as_json)
        return
    cancelled = client.runs.cancel_many(
        agent=agent, states=state or (), labels=parse_labels(label), reason=reason, force=force, limit=limit
    )
    show_one(cancelled, as_json=as_json)


@at_gateway
def pause(client: "Client", run_id: _Run, reason: _Reason = "", as_json: JsonOption = False) -> None:
    """Keep a run from going on after what it is doing."""
    show_one(client.runs.pause(run_id, reason), as_json=as_json)


@at_gateway
def resume(client: "Client", run_id: _Run, reason: _Reason = "", as_json: JsonOption = False) -> None:
    """Let a paused run go on."""
    show_one(client.runs.resume(run_id, reason), as_json=as_json)


@at_gateway
def signal(
    client: "Client",
    run_id: _Run,
    name: Annotated[str, typer.Argument(help="Name that a step waits for.")],
    payload: Annotated[str | None, typer.Option(help="JSON text, or @FILE with JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hand a run a value that one of its steps waits for."""
    value: Any = parse_input(payload) if payload is not None else None
    show_one(client.runs.signal(run_id, name, value), as_json=as_json)


@at_gateway
def limits(
    client: "Client",
    run_id: _Run,
    steps: Annotated[int | None, typer.Option(help="Steps that may be started.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Input and output tokens together.")] = None,
    cost_usd: Annotated[float | None, typer.Option(help="Cost in USD.")] = None,
    wall_time: Annotated[str | None, typer.Option(help="Time from the start, e.g. 2h.")] = None,
    tool_errors: Annotated[int | None, typer.Option(help="Tool errors in a row.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Calls of one tool with the same arguments.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Raise limits of one run; if it paused at one, it goes on."""
    raised = client.runs.raise_limits(
        run_id,
        steps=steps,
        tokens=tokens,
        cost_usd=cost_usd,
        wall_time=wall_time,
        tool_errors=tool_errors,
        repeats=repeats,
    )
    show_one(raised, as_json=as_json)


@at_gateway
def fork(
    client: "Client",
    run_id: _Run,
    seq: Annotated[int, typer.Argument(help="Last event to take over.", min=1)],
    input_text: Annotated[str | None, typer.Option("--input", help="Other input: JSON text, or @FILE.")] = None,
    version: Annotated[int | None, typer.Option(help="Another version of the agent.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="name=value, as often as needed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run from a copy of a run's events: nothing of them is done again."""
    more: dict[str, Any] = {} if input_text is None else {"input": parse_input(input_text)}
    show_one(client.runs.fork(run_id, seq, version=version, labels=parse_labels(label), **more), as_json=as_json)


@at_gateway
def replay(client: "Client", run_id: _Run, as_json: JsonOption = False) -> None:
    """Decide a finished run once more, without effects. The exit code is 1 when it decides something else."""
    outcome = client.runs.replay(run_id)
    show_one(outcome, as_json=as_json)
    if not outcome.same:
        raise typer.Exit(FAILED)


def add_to(app: typer.Typer) -> None:
    """The commands, beside those that read runs."""
    for command in (cancel, pause, resume, signal, limits, fork, replay):
        app.command()(command)
