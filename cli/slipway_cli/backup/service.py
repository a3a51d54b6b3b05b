"""Services' own commands for backups: their tables and their stores are theirs."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from slipway_cli.backup.installation import LOG_KEY, Installation
from slipway_cli.backup.programs import communicated
from slipway_cli.backup.refusal import BackupRefusedError


async def save_objects(installation: Installation, folder: Path) -> int:
    """Copies objects that `folder` does not have yet; answers with their number. Raises BackupRefusedError."""
    return int(await _run("slipway_memory.objects_copy", "save", folder, env=_objects(installation)))


async def load_objects(installation: Installation, folder: Path) -> int:
    """Copies objects back; answers with their number. Raises BackupRefusedError."""
    return int(await _run("slipway_memory.objects_copy", "load", folder, env=_objects(installation)))


async def remove_objects(installation: Installation, folder: Path) -> int:
    """Deletes the objects that `folder` has; answers with their number. Raises BackupRefusedError."""
    return int(await _run("slipway_memory.objects_copy", "remove", folder, env=_objects(installation)))


async def has_objects(installation: Installation, folder: Path) -> bool:
    """Is there any object? Raises BackupRefusedError."""
    return await _run("slipway_memory.objects_copy", "count", folder, env=_objects(installation)) != "0"


async def go_on(installation: Installation, data_dir: Path) -> None:
    """Tells services that their databases come from a backup. Raises BackupRefusedError."""
    databases = installation.databases
    await _run("slipway_orchestrator.restored", env={"SLIPWAY_ORCHESTRATOR_DATABASE_URL": databases["orchestrator"]})
    await _run(
        "slipway_audit.restore",
        "--all",
        env={
            "SLIPWAY_AUDIT_DATABASE_URL": databases["audit"],
            "SLIPWAY_AUDIT_SIGNING_KEY_FILE": str(data_dir / LOG_KEY),
            "SLIPWAY_AUDIT_HEADS_DIR": str(installation.heads),
        },
    )


async def migrations(service: str) -> dict[str, str]:
    """The migrations of this release, with their SHA-256. Raises BackupRefusedError."""
    return json.loads(await _run(f"slipway_{service}.migrate", "--list"))


def _objects(installation: Installation) -> dict[str, str]:
    return {"SLIPWAY_MEMORY_OBJECTS_URL": installation.objects}


async def _run(module: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """What `python -m MODULE` printed last. Raises BackupRefusedError with it when it failed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, said = await communicated(process)
    text = (output.strip() or b"" if process.returncode == 0 else output.strip() or said.strip()).decode(
        errors="replace"
    )
    last = text.rpartition("\n")[2]
    if process.returncode != 0:
        raise BackupRefusedError(f"{module.partition('.')[0].removeprefix('slipway_')}: {last}")
    return last
