"""A process for evaluations that may take long: started when needed, killed when its time is up."""

import asyncio
import json
import os
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress

from pydantic import JsonValue

from slipway_orchestrator.expressions.evaluation import ExpressionFailed, ExpressionTooCostly

_LENGTH = struct.Struct("!I")


class EvaluationProcess:
    """One helper process, one evaluation at a time. It ends when it was idle for `idle` seconds."""

    def __init__(self, time_limit: float = 2.0, idle: float = 30.0) -> None:
        self._time_limit = time_limit
        self._idle = idle
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._ending: asyncio.TimerHandle | None = None

    async def evaluate(self, expression: str, names: Mapping[str, JsonValue]) -> JsonValue:
        """The value. Raises ExpressionFailed, or ExpressionTooCostly after the time limit (seconds)."""
        request = json.dumps({"expression": expression, "names": names}).encode()
        async with self._turn:
            if self._ending is not None:
                self._ending.cancel()
            process = await self._running()
            try:
                async with asyncio.timeout(self._time_limit):
                    answer = await _exchange(process, request)
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
                await self._stop()
                raise ExpressionTooCostly(f"the expression took more than {self._time_limit:g} s or 512 MiB") from error
            except asyncio.CancelledError:
                await self._stop()
                raise
            self._ending = asyncio.get_running_loop().call_later(self._idle, self._kill)
        if "value" in answer:
            return answer["value"]
        if answer.get("too_costly"):
            raise ExpressionTooCostly(str(answer["error"]))
        raise ExpressionFailed(str(answer["error"]))

    async def close(self) -> None:
        """End the process."""
        if self._ending is not None:
            self._ending.cancel()
        async with self._turn:
            await self._stop()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "slipway_orchestrator.expressions.process",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Expressions see nothing of the worker: no settings, no secrets.
                env={"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            ready = self._process.stdout
            if ready is not None:  # the import of the library is not the expression's time
                await ready.readexactly(1)
        return self._process

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def _stop(self) -> None:
        if self._process is not None:
            self._kill()
            await self._process.wait()
            self._process = None


async def _exchange(process: asyncio.subprocess.Process, request: bytes) -> dict[str, JsonValue]:
    if process.stdin is None or process.stdout is None:
        raise ConnectionError("the process has no pipes")
    process.stdin.write(_LENGTH.pack(len(request)) + request)
    await process.stdin.drain()
    (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
    return json.loads(await process.stdout.readexactly(length))
