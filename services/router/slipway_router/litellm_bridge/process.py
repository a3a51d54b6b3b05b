"""The process that runs litellm's SDK: started when the catalogue needs it, started again when it dies."""

import asyncio
import json
import secrets
from dataclasses import replace
from pathlib import Path

from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger

from slipway_router.catalogue import Catalogue, Provider
from slipway_router.errors import ProviderUnavailable

_log = get_logger(__name__)
_PROGRAM = Path(__file__).with_name("bridge.py")
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_PAUSE_FIRST, _PAUSE_MOST = 0.5, 30.0


class LitellmUnavailable(Unavailable):
    """The process of litellm is needed and does not run."""

    reason = "LITELLM_UNAVAILABLE"


class LitellmBridge:
    """Keeps the process while it is needed. `run` is a background coroutine of the service."""

    def __init__(self, python: Path | None) -> None:
        """`python` is the interpreter of an environment with litellm; None: there is none, and none is needed."""
        self._python = python
        self._secret = secrets.token_urlsafe(32)
        self._port: int | None = None
        self._needed = asyncio.Event()
        self._up = asyncio.Event()

    def need(self, catalogue: Catalogue) -> bool:
        """Have the process started if `catalogue` needs it; True if it does."""
        if all(model.provider.is_direct for model in catalogue.models.values()):
            return False
        self._needed.set()
        return True

    async def prepare(self, catalogue: Catalogue) -> None:
        """Have the process running before a catalogue that needs it is in force; waits a minute at most."""
        if not self.need(catalogue):
            return
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._up.wait()
        except TimeoutError:
            _log.error("litellm.not_ready", seconds=_START_SECONDS)

    async def ready(self) -> None:
        """Raise LitellmUnavailable when the process is needed and does not run (readiness)."""
        if self._needed.is_set() and not self._up.is_set():
            raise LitellmUnavailable("litellm is starting")

    def through(self, provider: Provider) -> Provider:
        """`provider` as it is reached through the process; raises ProviderUnavailable while that is away."""
        if self._port is None:
            away = ProviderUnavailable(f"provider {provider.name}: litellm is starting", retry_after=1)
            away.unhealthy = False
            raise away
        headers = {"x-slipway-provider-key": provider.api_key, "x-slipway-api-base": provider.base_url}
        return replace(
            provider,
            base_url=f"http://127.0.0.1:{self._port}/{provider.type}",
            api_key=self._secret,
            headers=tuple((name, value) for name, value in headers.items() if value),
        )

    async def run(self) -> None:
        """Keep the process running from when it is first needed, until cancelled."""
        await self._needed.wait()
        pause = _PAUSE_FIRST
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._once()
            except (OSError, ValueError) as error:
                _log.error("litellm.failed", error=str(error) or type(error).__name__)
            if asyncio.get_running_loop().time() - began > _PAUSE_MOST:
                pause = _PAUSE_FIRST
            await asyncio.sleep(pause)
            pause = min(pause * 2, _PAUSE_MOST)

    async def _once(self) -> None:
        assert self._python is not None  # noqa: S101 - a catalogue that needs it is refused without
        process = await asyncio.create_subprocess_exec(
            self._python,
            "-I",
            _PROGRAM,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Nothing of the router's environment: no credentials that the SDK would find by itself.
            env={"PATH": "/usr/bin:/bin"},
        )
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, as asked
        try:
            process.stdin.write(f"{self._secret}\n".encode())
            async with asyncio.timeout(_START_SECONDS):
                first = await process.stdout.readline()
            self._port = int(json.loads(first)["port"])
            self._up.set()
            _log.info("litellm.ready", pid=process.pid)
            while await process.stdout.readline():
                pass
            status = await process.wait()
            _log.error("litellm.died", status=status)
        finally:
            self._port = None
            self._up.clear()
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    # Its standard input ends, and with it the process; also when this one is killed.
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
