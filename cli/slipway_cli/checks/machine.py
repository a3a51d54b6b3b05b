"""This machine: disk, port, sandbox, and the files of the configuration."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from slipway_cli.checks.finding import Finding
from slipway_cli.supervisor.ports import refuse_port_in_use
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.up import refuse_incomplete_config

_GIB = 1024**3
_FEWEST_FILES = 10_000
_SECONDS = 60.0


async def ask(module: str, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Runs a service's own check (`python -m MODULE`): whether all is well, and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return False, f"no answer in {_SECONDS:g} s"
    lines = output.decode(errors="replace").strip().splitlines()
    return process.returncode == 0, lines[-1] if lines else ""


def check_disk(data_dir: Path) -> Finding:
    """Room where the stack keeps its data."""
    folder = data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    text = f"{free:.1f} GiB free at {folder}"
    inodes = os.statvfs(folder)
    # File systems that make them as needed say 0 of 0.
    if inodes.f_files and inodes.f_favail < _FEWEST_FILES:
        return Finding(
            "fail", "disk", f"{folder} takes {inodes.f_favail} more files", "delete some, or move the folder"
        )
    if free < 1:
        return Finding("fail", "disk", text, "free some, or choose another folder with --data-dir")
    if free < 5:
        return Finding("warn", "disk", text, "a stack with documents wants 5 GiB or more")
    return Finding("ok", "disk", text)


def check_port(port: int) -> Finding:
    """Can the gateway listen there?"""
    try:
        refuse_port_in_use(port)
    except StartRefusedError as error:
        return Finding("fail", "port", str(error))
    return Finding("ok", "port", f"{port} is free")


async def check_sandbox() -> Finding:
    """Starts a sandbox, as the tools service does."""
    with tempfile.TemporaryDirectory(prefix="slipway-doctor-") as folder:
        well, said = await ask("slipway_tools.sandbox_check", env={"SLIPWAY_TOOLS_STATE_DIR": folder})
    if well:
        return Finding("ok", "sandbox", said)
    # What is missing is the kernel's: everything but the execution of code works without it.
    return Finding("warn", "sandbox", said, "tools that run code are refused until then")


async def check_config(folder: Path, data_dir: Path) -> list[Finding]:
    """The folder with policies, realm and catalogue."""
    try:
        refuse_incomplete_config(folder)
    except StartRefusedError as error:
        return [Finding("fail", "config", str(error))]
    secrets = data_dir / "router-secrets.yaml"
    # Before the first start there is no such file, and the example's one secret is made with it.
    with tempfile.TemporaryDirectory(prefix="slipway-doctor-") as empty:
        if not secrets.exists():
            secrets = Path(empty) / "secrets.yaml"
            secrets.touch(mode=0o600)
            secrets.write_text("local_models: made-at-the-first-start\n")
        file = folder / "catalogue" / "models.yaml"
        well, said = await ask("slipway_router.catalogue_check", str(file), str(secrets))
    if not well:
        return [Finding("fail", "catalogue", said, "correct that line; services keep the catalogue that was in force")]
    return [Finding("ok", "catalogue", f"{said} in {file}")]
