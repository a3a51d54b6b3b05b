"""`slipway doctor`: is everything there that a stack needs, and fit for it?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from slipway_cli.output import FAILED, USAGE, console, fail, print_json
from slipway_cli.session import DEFAULT_DATA_DIR, DataDirOption, JsonOption

if TYPE_CHECKING:
    from slipway_cli.checks.finding import Finding
    from slipway_cli.supervisor.servers_file import RealServers

_STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    servers: Annotated[Path | None, typer.Option(help="YAML file with URLs of real servers.")] = None,
    config: Annotated[Path | None, typer.Option(help="Folder with policies/, realm/ and catalogue/.")] = None,
    port: Annotated[int, typer.Option(help="Port that the HTTP API shall have.", min=1, max=65535)] = 8080,
    as_json: JsonOption = False,
) -> None:
    """Check servers, versions, migrations, clocks, keys, sandbox, disk, catalogue and port, and say what to do.

    Changes nothing. Exits with 0 when all is well, 1 when something fails, 2 when something is only doubtful.
    """
    # The command line starts fast: what only this command needs is imported here.
    import asyncio

    try:
        from slipway_cli.supervisor.refusal import StartRefusedError
        from slipway_cli.supervisor.servers_file import RealServers, read_servers
        from slipway_cli.supervisor.up import default_config
    except ModuleNotFoundError as missing:
        fail(f"this installation cannot check a stack, it has no {missing.name}: install slipway-cli[up]", USAGE)

    try:
        chosen = (config or default_config()).absolute()
        known = read_servers(servers) if servers else RealServers()
    except StartRefusedError as refused:
        fail(str(refused), FAILED)
    found = asyncio.run(_examine(data_dir.absolute(), known, chosen, port))
    worst = next((level for level in ("fail", "warn") if any(one.level == level for one in found)), "ok")
    if as_json:
        print_json(
            {
                "result": worst,
                "checks": [
                    {"level": one.level, "subject": one.subject, "text": one.text, "remedy": one.remedy}
                    for one in found
                ],
            }
        )
    else:
        for one in found:
            text = one.text + (f": {one.remedy}" if one.remedy else "")
            console.print(
                f"[{_STYLE[one.level]}]{one.level:<4}[/] [bold]{escape(one.subject):<10}[/] {escape(text)}",
                highlight=False,
                soft_wrap=True,
            )
    raise typer.Exit({"ok": 0, "fail": FAILED, "warn": 2}[worst])


async def _examine(data_dir: Path, servers: "RealServers", config: Path, port: int) -> "list[Finding]":
    import os

    from slipway_cli.checks import keys, machine, stack
    from slipway_cli.checks.certificates import check_certificates
    from slipway_cli.supervisor.data_dir import read_state

    state = read_state(data_dir)
    found = [machine.check_disk(data_dir)]
    if state is None:
        found.append(machine.check_port(port))
    else:
        found += stack.check_processes(state)
        found += await stack.check_gateway(state.url)
        found += await stack.check_issuer(state.issuer)
    found += keys.check_keys(data_dir)
    found += await check_certificates(os.environ)
    found += await servers.check()
    address = state.postgres if state else servers.postgres
    if address and (data_dir / "secrets.json").exists():
        found += await stack.check_databases(address, data_dir)
    found += await machine.check_config(config, data_dir)
    found.append(await machine.check_sandbox())
    return found
