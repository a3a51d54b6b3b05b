"""One sandbox from start to end: a launcher that joined its control groups, then a sandbox that waits, then calls."""

import asyncio
import contextlib
import marshal
import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from slipway_tools.measures import SANDBOX_START
from slipway_tools.sandbox.adapter import Adapter, Wiring
from slipway_tools.sandbox.cgroups import SlotGroup
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.pipes import Inlet, PipeEnded, Report, send
from slipway_tools.sandbox.program import Ended, Outcome, Program
from slipway_tools.sandbox.wire import encode, read_report

log = structlog.get_logger(__name__)
_START_SECONDS = 15.0
_END_SECONDS = 0.25  # for a sandbox to end its own processes, before it is killed with them
_STOP_SECONDS = 0.8  # a session whose program does not end by then is given up: cancelling takes a second at most

# Joins the control groups given before `--`, waits for a line, becomes the sandbox. End of input ends it: the service
# is gone. (POSIX shells can't redirect to descriptors above 9, so it can't say that it has joined: the runner does.)
LAUNCHER = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 125; shift; done; shift
read -r go || exit 0
exec "$@"
"""


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


@dataclass(frozen=True)
class Pipes:
    """Our ends of a sandbox's pipes, as descriptors."""

    control: int
    stdout: int
    stderr: int
    report: int
    journal: int


class Box:
    """A sandbox. `start` leaves a launcher, `boot` makes it a sandbox, `call` runs a program in it, `end` ends it.

    The process is started by `subprocess` and waited for by its pidfd: event loops differ in how they start and reap
    children, and a signal by number could hit a stranger that got the number meanwhile.
    """

    def __init__(
        self, adapter: Adapter, group: SlotGroup | None, name: str, process: subprocess.Popen[bytes], pipes: Pipes
    ) -> None:
        self.adapter = adapter
        self.group = group
        self.pipes = pipes
        self.name = name
        self.broken = False
        self._process = process
        self._handle = os.pidfd_open(process.pid)
        self._journal = bytearray()
        self._printed = _Printed(1 << 16)
        self._out = Inlet(pipes.stdout, self._take_out)
        self._err = Inlet(pipes.stderr, self._take_err)
        self._said = Inlet(pipes.journal, self._note)
        self._report = Report(pipes.report)
        self._going = False
        self._ready: asyncio.Task[bytes] | None = None
        self._ended = False
        os.set_blocking(pipes.control, False)

    @classmethod
    def start(cls, adapter: Adapter, group: SlotGroup | None, name: str, *, egress: Path | None = None) -> "Box":
        """Start the launcher; raises SandboxUnavailable when it can't be started."""
        control, stdout, stderr, report, journal = (os.pipe() for _ in range(5))
        ours = Pipes(control[1], stdout[0], stderr[0], report[0], journal[0])
        theirs = [control[0], stdout[1], stderr[1], report[1], journal[1]]
        wiring = Wiring(
            name,
            report[1],
            journal[1],
            egress,
            pin=group is None or not group.bounds_cpu,
            memory_bound=group is not None and group.bounds_memory,
        )
        groups = [str(folder) for folder in group.folders] if group else []
        try:
            process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", LAUNCHER, "slipway-sandbox", *groups, "--", *adapter.command(wiring)],
                stdin=control[0],
                stdout=stdout[1],
                stderr=stderr[1],
                pass_fds=theirs[3:],
                start_new_session=True,
                cwd="/",
                env={},
            )
        except OSError as error:
            for descriptor in (ours.control, ours.stdout, ours.stderr, ours.report, ours.journal):
                os.close(descriptor)
            raise SandboxUnavailable(f"the sandbox can't be started: {error.strerror}", retry_after=5) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return cls(adapter, group, name, process, ours)

    @property
    def alive(self) -> bool:
        """True while it can still take a program."""
        return not self.broken and not self._ended and self._process.poll() is None

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
            self.broken = self.broken or outcome.ended == "lost"
        except asyncio.CancelledError:
            await self._stop(reading, survive=survive and sending.done())
            raise
        finally:
            sending.cancel()
            if reading is not None:
                reading.cancel()
        seconds = time.monotonic() - started
        self._out.drain(limits.flood)
        self._err.drain(limits.flood)
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
        head = [] if self._going else [b"go\n"]
        self._going = True
        with contextlib.suppress(PipeEnded):  # the report tells
            await send(self.pipes.control, head + parts)

    async def _send_stop(self) -> None:
        message = marshal.dumps({"op": "stop"})
        with contextlib.suppress(PipeEnded):
            await send(self.pipes.control, [b"%08x" % len(message), message])

    async def _came_up(self) -> None:
        if self._ready is None:
            started = time.monotonic()
            self._ready = asyncio.ensure_future(self._report.line())
            with contextlib.suppress(TimeoutError, PipeEnded, ValueError):
                async with asyncio.timeout(_START_SECONDS):
                    if await asyncio.shield(self._ready) == b"ready":
                        SANDBOX_START.observe(time.monotonic() - started)
                        return
            self._ready.cancel()
            self.broken = True
            self.kill()
            self._said.drain(1 << 16)
            reason = self.adapter.refusal(bytes(self._journal))
            log.error("sandbox.start_failed", sandbox=self.adapter.name, journal=self._journal.decode(errors="replace"))
            raise SandboxUnavailable(
                f"the sandbox can't be started: {reason} (`python -m slipway_tools.sandbox_check` says more)",
                retry_after=5,
            )

    def _take_out(self, chunk: bytes) -> None:
        self._printed.keep(self._printed.stdout, chunk)

    def _take_err(self, chunk: bytes) -> None:
        self._printed.keep(self._printed.stderr, chunk)

    def _note(self, chunk: bytes) -> None:
        self._journal += chunk[: max(4096 - len(self._journal), 0)]

    def kill(self) -> None:
        """Kill everything in it, at once; `end` sees to it that this happened."""
        self._signal(self.adapter.kill_signal)

    def _signal(self, number: signal.Signals) -> None:
        # The first process of the sandbox dies with its starter (PR_SET_PDEATHSIG), and with it its PID namespace.
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, number)

    async def end(self) -> None:
        """Kill, wait, reap, close, and remove what it left."""
        if self._ended:
            return
        self.kill()
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._handle, gone.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await gone.wait()
            self._signal(signal.SIGKILL)
            await gone.wait()
        finally:
            self._ended = True
            loop.remove_reader(self._handle)
            os.close(self._handle)
            self._process.wait()
            if self._ready is not None:
                self._ready.cancel()
            for inlet in (self._out, self._err, self._said, self._report):
                inlet.close()
            os.close(self.pipes.control)
            self.adapter.forget(self.name)


def _read(reading: "asyncio.Future[Outcome]") -> Outcome | None:
    """The report, or None for a sandbox that gave none, or not a whole one, or a wrong one."""
    if not reading.done():
        return None
    error = reading.exception()
    if error is not None and not isinstance(error, PipeEnded | ValueError):
        raise error
    return None if error is not None else reading.result()
