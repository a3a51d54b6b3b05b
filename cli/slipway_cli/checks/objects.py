"""The object store, asked through the memory service's own adapter; nothing is written."""

import asyncio
import os
import sys
from urllib.parse import urlsplit

from slipway_cli.checks.finding import Finding

_SECONDS = 40.0


async def check_objects(url: str) -> list[Finding]:
    """Reachable, with the right keys, and with the bucket."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "slipway_memory.objects_check",
        env={**os.environ, "SLIPWAY_MEMORY_OBJECTS_URL": url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        output = f"no answer in {_SECONDS:g} s".encode()
    where = urlsplit(url).netloc.rpartition("@")[2] or "the folder"
    if process.returncode == 0:
        return [Finding("ok", "objects", f"{where} can be used")]
    said = output.decode(errors="replace").strip() or "it could not be asked"
    return [Finding("fail", "objects", f"{where}: {said}", "correct the key `objects`, or make what it names")]
