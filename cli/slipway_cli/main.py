"""The `slipway` command."""

from pathlib import Path
from typing import Annotated

import typer

from slipway_cli.commands import (
    agents,
    approvals,
    audit,
    backup,
    budgets,
    doctor,
    identity,
    knowledge,
    mcp_servers,
    models,
    money,
    runs,
    schedules,
    sources,
    steering,
    tools,
)
from slipway_cli.output import USAGE, console, fail

app = typer.Typer(
    name="slipway",
    help="Take AI agents from prototype to production: run, ship, approve, and prove what happened.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(agents.app, name="agents")
app.command()(runs.run)
app.add_typer(runs.app, name="runs")
steering.add_to(runs.app)
app.add_typer(schedules.app, name="schedules")
app.command()(schedules.suspension)
app.add_typer(approvals.app, name="approvals")
app.add_typer(knowledge.app, name="knowledge")
app.add_typer(sources.app, name="sources")
app.add_typer(tools.app, name="tools")
app.add_typer(mcp_servers.app, name="mcp")
app.add_typer(models.app, name="models")
app.command()(money.usage)
app.add_typer(budgets.app, name="budgets")
app.add_typer(audit.app, name="audit")
app.command()(doctor.doctor)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(identity.login)
app.command()(identity.logout)
app.command()(identity.token)
app.command()(identity.whoami)


@app.command()
def up(
    data_dir: Annotated[Path, typer.Option(help="Where the stack keeps its data.")] = Path(".slipway"),
    port: Annotated[int, typer.Option(help="Port of the HTTP API, on 127.0.0.1.", min=1, max=65535)] = 8080,
    workers: Annotated[int, typer.Option(help="Orchestrator workers.", min=1, max=16)] = 2,
    servers: Annotated[Path | None, typer.Option(help="YAML file with URLs of real servers.")] = None,
    config: Annotated[Path | None, typer.Option(help="Folder with policies/, realm/ and catalogue/.")] = None,
    allow_http: Annotated[
        list[str] | None, typer.Option(help="host:port on a private address that HTTP tools may call; may be repeated.")
    ] = None,
    tour: Annotated[bool, typer.Option("--tour", help="Take one real agent run through the stack.")] = False,
) -> None:
    """Start the whole stack on this machine and keep it running until Ctrl-C."""
    # The command line starts fast: what only this command needs is imported here.
    import asyncio

    try:
        from slipway_cli.supervisor.plan import Options
        from slipway_cli.supervisor.refusal import StartRefusedError
        from slipway_cli.supervisor.servers_file import RealServers, read_servers
        from slipway_cli.supervisor.up import default_config, with_tour
        from slipway_cli.supervisor.up import up as run
    except ModuleNotFoundError as missing:
        fail(f"this installation cannot start a stack, it has no {missing.name}: install slipway-cli[up]", USAGE)

    try:
        options = Options(
            port=port,
            workers=workers,
            config=(config or default_config()).absolute(),
            servers=read_servers(servers) if servers else RealServers(),
            allow_http=tuple(allow_http or ()),
        )
        status = asyncio.run(run(data_dir, with_tour(options) if tour else options, console=console))
    except StartRefusedError as refused:
        fail(str(refused), USAGE)
    raise typer.Exit(status)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
