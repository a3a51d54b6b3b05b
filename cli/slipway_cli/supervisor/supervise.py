"""Starts processes in the order of their dependencies, restarts what dies, and stops all of it."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slipway_cli.supervisor.child import spawn
from slipway_cli.supervisor.data_dir import ProcessRecord
from slipway_cli.supervisor.events import Events
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.spec import ProcessSpec

_FIRST_BACKOFF = 0.5
_LAST_BACKOFF = 30.0
# A process that lived this long was well: its next death starts the back-off anew.
_STABLE_SECONDS = 60.0
# Deaths before it was ever ready after which starting is given up.
_HOPELESS = 3
_STOP_SECONDS = 15.0


@dataclass
class _Kept:
    """A process as it is kept alive."""

    spec: ProcessSpec
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None
    was_ready: bool = False


class Supervisor:
    """Keeps a set of processes running.

    `start` returns when all are ready for the first time; from then on `failed` is never set by a death, only by a
    process that could not be started at all.
    """

    def __init__(self, specs: Sequence[ProcessSpec], *, logs: Path, events: Events) -> None:
        self._kept = {spec.name: _Kept(spec) for spec in specs}
        self._logs = logs
        self._events = events
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._changed: asyncio.Event | None = None

    def records(self) -> list[ProcessRecord]:
        """The processes that run now."""
        found: list[ProcessRecord] = []
        for name, kept in self._kept.items():
            if kept.process is not None and kept.process.returncode is None:
                with suppress(psutil.NoSuchProcess):
                    found.append(ProcessRecord(name, kept.process.pid, psutil.Process(kept.process.pid).create_time()))
        return found

    async def start(self, changed: asyncio.Event) -> None:
        """Starts everything; `changed` is set whenever a process comes or goes.

        Raises StartRefusedError, with the end of its log, when a process cannot be started.
        """
        self._changed = changed
        self._tasks = [asyncio.create_task(self._keep(kept), name=name) for name, kept in self._kept.items()]
        everything = asyncio.gather(*(kept.ready.wait() for kept in self._kept.values()))
        done, _ = await asyncio.wait([everything, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        if everything not in done:
            everything.cancel()
            with suppress(asyncio.CancelledError):
                await everything
            for task in done:
                task.result()
            raise StartRefusedError("a process of the stack ended while it was started")

    async def failed(self) -> None:
        """Returns never; raises StartRefusedError when a process cannot be kept running any more."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stops the processes, those that others depend on last; kills what does not end in time."""
        self._stopping = True
        waiting = dict(self._kept)
        while waiting:
            needed = {name for kept in waiting.values() for name in kept.spec.after}
            leaves = [kept for name, kept in waiting.items() if name not in needed] or list(waiting.values())
            await asyncio.gather(*(self._end(kept) for kept in leaves))
            for kept in leaves:
                del waiting[kept.spec.name]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """Kills everything at once: for somebody who does not want to wait."""
        self._stopping = True
        for kept in self._kept.values():
            self._kill(kept)

    async def _keep(self, kept: _Kept) -> None:
        spec = kept.spec
        for name in spec.after:
            await self._kept[name].ready.wait()
        backoff = _FIRST_BACKOFF
        deaths = 0
        while not self._stopping:
            started = time.monotonic()
            self._events.tell("start" if not kept.was_ready else "restart", spec.name, spec.detail)
            status = await self._live(kept, started)
            self._tell_change()
            if self._stopping:
                return
            deaths = deaths + 1 if not kept.was_ready else 0
            if deaths >= _HOPELESS:
                raise StartRefusedError(
                    f"{spec.name} does not start (exit status {status}); the end of {self._log(spec)}:\n"
                    + self._log_tail(spec)
                )
            if time.monotonic() - started > _STABLE_SECONDS:
                backoff = _FIRST_BACKOFF
            self._events.tell("exit", spec.name, f"ended with {_describe(status)}; restarted in {backoff:g} s")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF)

    async def _live(self, kept: _Kept, started: float) -> int:
        """One life of a process, from its start to its exit status."""
        spec = kept.spec
        process = await spawn(
            spec.argv,
            env=spec.env,
            log=self._log(spec),
            death_signal=spec.death_signal,
            drop_root=spec.drop_root,
        )
        kept.process = process
        self._tell_change()
        ending = asyncio.create_task(process.wait())
        try:
            if await self._becomes_ready(spec, ending):
                if not kept.was_ready and spec.once_ready is not None:
                    await spec.once_ready()
                kept.was_ready = True
                kept.ready.set()
                self._events.tell("ready", spec.name, f"{time.monotonic() - started:.1f} s")
            elif not ending.done():
                self._events.tell("exit", spec.name, f"not ready after {spec.ready_within:g} s, killed")
                self._kill(kept)
            return await ending
        finally:
            ending.cancel()
            # Whatever the process started is in its group; none of it may live on.
            _kill_group(process.pid)

    async def _becomes_ready(self, spec: ProcessSpec, ending: asyncio.Task[int]) -> bool:
        deadline = time.monotonic() + spec.ready_within
        while time.monotonic() < deadline and not ending.done():
            try:
                async with asyncio.timeout(5):
                    await spec.ready()
            except Exception:  # noqa: BLE001 # not ready yet, whatever the reason; the log has it
                await asyncio.wait([ending], timeout=0.05)
                continue
            return True
        return False

    async def _end(self, kept: _Kept) -> None:
        process = kept.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(kept.spec.stop_signal)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            self._events.tell("stop", kept.spec.name, f"did not end within {_STOP_SECONDS:g} s, killed")
            self._kill(kept)
            await process.wait()

    def _kill(self, kept: _Kept) -> None:
        if kept.process is not None and kept.process.returncode is None:
            _kill_group(kept.process.pid)

    def _tell_change(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _log(self, spec: ProcessSpec) -> Path:
        return self._logs / f"{spec.name}.log"

    def _log_tail(self, spec: ProcessSpec, lines: int = 15) -> str:
        with suppress(OSError):
            return "\n".join(self._log(spec).read_text(errors="replace").splitlines()[-lines:])
        return ""


def _kill_group(pid: int) -> None:
    # Each child leads a session, so its group has its number.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
