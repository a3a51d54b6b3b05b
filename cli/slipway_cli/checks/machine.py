"""This machine: disk, port, clock, sandbox, and the files of the data directory and of the configuration."""

import asyncio
import base64
import binascii
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from slipway_evidence.note import NoteError, SignerKey

from slipway_cli.checks.finding import Finding
from slipway_cli.supervisor.ports import refuse_port_in_use
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.up import refuse_incomplete_config

_GIB = 1024**3
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


def check_keys(data_dir: Path) -> list[Finding]:
    """Keys and secrets: there, of the right form, and this user's alone."""
    if not (data_dir / "secrets.json").exists():
        return [Finding("ok", "keys", "none yet: they are made at the first start")]
    found: list[Finding] = []
    files = {
        data_dir / "secrets.json": _wrong_secrets,
        data_dir / "keys" / "gateway" / "signing.pem": _wrong_signing_key,
        data_dir / "keys" / "gateway" / "jwks.json": _wrong_public_keys,
        data_dir / "keys" / "audit" / "log.key": _wrong_log_key,
    }
    for file, wrong_form in files.items():
        try:
            wrong = wrong_form(file.read_text())
            private = not stat.S_IMODE(file.stat().st_mode) & 0o077
        except OSError as error:
            found.append(
                Finding("fail", "keys", f"{file} cannot be read ({error.strerror})", "restore it from the backup")
            )
            continue
        if wrong:
            found.append(Finding("fail", "keys", f"{file} {wrong}", "restore it from the backup"))
        if not private and file.name != "jwks.json":
            found.append(Finding("fail", "keys", f"{file} can be read by others", f"chmod 600 {file}"))
    return found or [Finding("ok", "keys", f"{len(files)} files of keys and secrets in {data_dir}")]


def _wrong_secrets(text: str) -> str:
    try:
        for service, key in json.loads(text)["data_keys"].items():
            if len(base64.b64decode(key, validate=True)) != 32:
                return f"has a data key of {service} that is not 32 bytes"
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        return "is not what a stack writes"
    return ""


def _wrong_signing_key(text: str) -> str:
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError):
        return "is no unencrypted PEM private key"
    return "" if isinstance(key, Ed25519PrivateKey) else "is no Ed25519 key"


def _wrong_public_keys(text: str) -> str:
    try:
        return "" if json.loads(text)["keys"] else "holds no key"
    except (ValueError, KeyError, TypeError):
        return "is no JSON Web Key Set"


def _wrong_log_key(text: str) -> str:
    try:
        SignerKey.parse(text)
    except NoteError as error:
        return f"is no signing key of a log ({error})"
    return ""
