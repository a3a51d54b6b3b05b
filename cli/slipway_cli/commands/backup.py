"""`slipway backup` and `slipway restore`: an installation, and another made of it."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from slipway_cli.output import FAILED, INTERRUPTED, USAGE, console, fail, print_json
from slipway_cli.session import DEFAULT_DATA_DIR, DataDirOption, JsonOption

T = TypeVar("T")

_Folder = Annotated[Path, typer.Argument(help="Folder of the backup.")]
_Keys = Annotated[
    Path | None, typer.Option(help="File of the keys; by default beside the folder, with its name and `.keys`.")
]
_Passphrase = Annotated[
    Path | None, typer.Option(help="File whose first line is the passphrase that encrypts the keys.")
]
_Servers = Annotated[Path | None, typer.Option(help="YAML file with URLs of real servers, as for `slipway up`.")]


def backup(
    folder: _Folder,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    servers: _Servers = None,
    keys: _Keys = None,
    passphrase_file: _Passphrase = None,
    as_json: JsonOption = False,
) -> None:
    """Write databases, objects, sessions and signed heads, as they are at one moment, and the keys to a file apart.

    The stack goes on meanwhile. Whoever has the folder and the keys can make the installation anew: keep them apart.
    """
    try:
        from slipway_cli.backup.installation import running
        from slipway_cli.backup.keys import read_passphrase
        from slipway_cli.backup.refusal import BackupRefusedError
        from slipway_cli.backup.take import take
        from slipway_cli.supervisor.data_dir import read_state
        from slipway_cli.supervisor.refusal import StartRefusedError
        from slipway_cli.supervisor.servers_file import RealServers, read_servers
    except ModuleNotFoundError as missing:
        fail(f"this installation cannot back up, it has no {missing.name}: install slipway-cli[up]", USAGE)
    keys_file = keys or _beside(folder)
    try:
        known = read_servers(servers) if servers else RealServers()
        source = running(data_dir.absolute(), known, read_state(data_dir))
        passphrase = read_passphrase(passphrase_file)
        taken = _run(take(data_dir.absolute(), source, folder.absolute(), keys_file, passphrase, _tell))
    except (BackupRefusedError, StartRefusedError) as refused:
        fail(str(refused), FAILED)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "keys": str(keys_file),
                "time": taken.time,
                "bytes": taken.bytes,
                "objects": taken.objects,
                "sessions": taken.sessions,
            }
        )
    else:
        console.print(
            f"{folder}: as of {taken.time}, {taken.bytes / 2**20:.1f} MiB, {taken.objects} objects, {taken.sessions} "
            f"sessions\n{keys_file}: the keys{'' if passphrase else ', not encrypted'}; keep them apart",
            highlight=False,
            soft_wrap=True,
        )


def restore(
    folder: _Folder,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    servers: _Servers = None,
    keys: _Keys = None,
    passphrase_file: _Passphrase = None,
    heads: Annotated[
        Path | None, typer.Option(help="Folder of signed heads of the old installation, newer than the backup's.")
    ] = None,
) -> None:
    """Make a new installation of a backup: an empty data directory, on embedded servers or on empty ones of yours.

    Everything is looked at before anything is written.
    """
    try:
        from slipway_cli.backup.keys import read_passphrase
        from slipway_cli.backup.refusal import BackupRefusedError
        from slipway_cli.backup.restore import restore as run
        from slipway_cli.supervisor.refusal import StartRefusedError
        from slipway_cli.supervisor.servers_file import RealServers, read_servers
    except ModuleNotFoundError as missing:
        fail(f"this installation cannot restore, it has no {missing.name}: install slipway-cli[up]", USAGE)
    try:
        known = read_servers(servers) if servers else RealServers()
        passphrase = read_passphrase(passphrase_file)
        manifest = _run(
            run(folder.absolute(), keys or _beside(folder), passphrase, data_dir.absolute(), known, heads, _tell)
        )
    except (BackupRefusedError, StartRefusedError) as refused:
        fail(str(refused), FAILED)
    command = f"slipway up --data-dir {data_dir}" + (f" --servers {servers}" if servers else "")
    console.print(f"{data_dir}: as of {manifest.time}\nnext: {command}", highlight=False, soft_wrap=True)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Does the work; who ends it, by Ctrl-C or SIGTERM, finds that nothing half was left."""
    import asyncio
    import signal

    async def until_told() -> T:
        working = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, working.cancel)
        return await working

    try:
        return asyncio.run(until_told())
    except (KeyboardInterrupt, asyncio.CancelledError):
        fail("interrupted: what was made is taken away again", INTERRUPTED)


def _beside(folder: Path) -> Path:
    return folder.absolute().with_name(f"{folder.absolute().name}.keys")


def _tell(what: str) -> None:
    from slipway_cli.output import errors

    errors.print(f"… {what}", style="dim", highlight=False)
