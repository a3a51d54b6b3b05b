"""One sandbox from start to end: it waits to become one, then it waits for its program, then it runs calls."""

import asyncio
import contextlib
import marshal
import signal
import time
from dataclasses import replace
from pathlib import Path

import structlog

from slipway_tools.measures import SANDBOX_START
from slipway_tools.sandbox.adapter import Adapter
from slipway_tools.sandbox.cgroups import SlotGroup
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.link import Berth, Ears
from slipway_tools.sandbox.pipes import PipeEnded, Report
from slipway_tools.sandbox.program import Ended, Outcome, Program
from slipway_tools.sandbox.wire import encode, read_report

log = structlog.get_logger(__name__)
_STOP_SECONDS = 0.8  # a session whose program does not end by then is given up: cancelling takes a second at most


class _Printed:
    """What a call prints, kept up to the limit of a flood; `flooded` is set beyond it."""

    def __init__(self, limit: int) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.flooded = asyncio.Event()
        self._left = limit

    def keep(self, kept: bytearray, chunk: bytes) -> None:
        kept += chunk[: max(self._left, 0)]
        self._left -= len(chunk)
        if self._left < 0:
            self.flooded.set()


class Box:
    """A sandbox. `start` leaves one that waits, `boot` makes it ready, `call` runs a program in it, `end` ends it."""

    def __init__(self, adapter: Adapter, berth: Berth) -> None:
        self.adapter = adapter
        self.group = berth.group
        self.broken = False
        self._printed = _Printed(1 << 16)
        self._report = Report()
        self._link = adapter.connect(berth, Ears(self._take_out, self._take_err, self._report))
        self._ready: asyncio.Task[bytes] | None = None

    @classmethod
    def start(cls, adapter: Adapter, group: SlotGroup | None, name: str, *, egress: Path | None = None) -> "Box":
        """Start what becomes the sandbox; raises SandboxUnavailable when it can't be started."""
        return cls(adapter, Berth(name, group, egress))

    @property
    def alive(self) -> bool:
        """True while it can still take a program."""
        return not self.broken and self._link.alive

    async def boot(self) -> None:
        """Make the launcher a sandbox that waits for its program.

        Raises:
            SandboxUnavailable: it did not come up.
        """
        await self._send([])
        await self._came_up()

    async def call(self, program: Program, *, survive: bool) -> Outcome:
        """Run one program. `survive` False: the sandbox is of no use afterwards; True: it can take another one.

        Raises:
            SandboxUnavailable: the sandbox did not come up; no code of the program was run.
        """
        limits = self.adapter.limits
        before = self.group.begin_call() if self.group else None
        self._printed = printed = _Printed(limits.flood)
        request = encode(program, limits, listing=survive)
        sending = asyncio.ensure_future(self._send(request))
        reading: asyncio.Future[Outcome] | None = None
        try:
            await self._came_up()
            started = time.monotonic()
            reading = asyncio.ensure_future(read_report(self._report, limits))
            flooding = asyncio.ensure_future(printed.flooded.wait())
            try:
                await asyncio.wait({reading, flooding}, timeout=program.seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                flooding.cancel()
            stopped: Ended | None = None
            if not reading.done():
                stopped = "flood" if printed.flooded.is_set() else "timeout"
                await self._stop(reading, survive=survive and sending.done())
            outcome = _read(reading) or Outcome(stopped or "lost", 128 + signal.SIGKILL)
            if outcome.ended == "lost":
                self.broken = True
                outcome = replace(outcome, out_of_memory=await self._link.out_of_memory())
        except asyncio.CancelledError:
            await self._stop(reading, survive=survive and sending.done())
            raise
        finally:
            sending.cancel()
            if reading is not None:
                reading.cancel()
        seconds = time.monotonic() - started
        self._link.drain(limits.flood)
        if stopped is not None:
            outcome = replace(outcome, ended=stopped, exit_status=128 + signal.SIGKILL)
        if self.group is not None and before is not None:
            outcome = self.group.end_call(before, outcome)
        return replace(outcome, stdout=bytes(printed.stdout), stderr=bytes(printed.stderr), seconds=seconds)

    async def _stop(self, reading: "asyncio.Future[Outcome] | None", *, survive: bool) -> None:
        """End the program: with the sandbox, or, where it shall survive, by its runner, if that answers in time."""
        if survive and reading is not None:
            await self._send_stop()
            await asyncio.wait({reading}, timeout=_STOP_SECONDS)
            if _read(reading) is not None:
                return
        self.broken = True
        self.kill()

    async def _send(self, parts: list[bytes]) -> None:
        with contextlib.suppress(PipeEnded):  # the report tells
            await self._link.send(parts)

    async def _send_stop(self) -> None:
        message = marshal.dumps({"op": "stop"})
        await self._send([b"%08x" % len(message), message])

    async def _came_up(self) -> None:
        if self._ready is None:
            started = time.monotonic()
            self._ready = asyncio.ensure_future(self._report.line())
            with contextlib.suppress(TimeoutError, PipeEnded, ValueError):
                async with asyncio.timeout(self.adapter.starting.seconds):
                    if await asyncio.shield(self._ready) == b"ready":
                        SANDBOX_START.observe(time.monotonic() - started)
                        return
            self._ready.cancel()
            self.broken = True
            self.kill()
            reason, journal = self._link.refusal()
            log.error("sandbox.start_failed", sandbox=self.adapter.name, reason=reason, journal=journal)
            raise SandboxUnavailable(
                f"the sandbox can't be started: {reason} (`python -m slipway_tools.sandbox_check` says more)",
                retry_after=5,
            )

    def _take_out(self, chunk: bytes) -> None:
        self._printed.keep(self._printed.stdout, chunk)

    def _take_err(self, chunk: bytes) -> None:
        self._printed.keep(self._printed.stderr, chunk)

    def kill(self) -> None:
        """Kill everything in it, at once; `end` sees to it that this happened."""
        self._link.kill()

    async def end(self) -> None:
        """Kill, wait, and remove what it left."""
        if self._ready is not None:
            self._ready.cancel()
        await self._link.end()


def _read(reading: "asyncio.Future[Outcome]") -> Outcome | None:
    """The report, or None for a sandbox that gave none, or not a whole one, or a wrong one."""
    if not reading.done():
        return None
    error = reading.exception()
    if error is not None and not isinstance(error, PipeEnded | ValueError):
        raise error
    return None if error is not None else reading.result()
