"""Links to sandboxes that are processes of this machine: a launcher that joined its control groups becomes one."""

import asyncio
import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass

from slipway_tools.sandbox.adapter import ProcessAdapter, Wiring
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.link import Berth, Ears
from slipway_tools.sandbox.pipes import Inlet, send

_END_SECONDS = 0.25  # for a sandbox to end its own processes, before it is killed with them

# Joins the control groups given before `--`, waits for a line, becomes the sandbox. End of input ends it: the service
# is gone. (POSIX shells can't redirect to descriptors above 9, so it can't say that it has joined: the runner does.)
LAUNCHER = """
while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 125; shift; done; shift
read -r go || exit 0
exec "$@"
"""


@dataclass(frozen=True)
class _Pipes:
    """Our ends of a sandbox's pipes, as descriptors."""

    control: int
    stdout: int
    stderr: int
    report: int
    journal: int


class ProcessLink:
    """A sandbox that is a process here.

    The process is started by `subprocess` and waited for by its pidfd: event loops differ in how they start and reap
    children, and a signal by number could hit a stranger that got the number meanwhile.
    """

    def __init__(
        self, adapter: ProcessAdapter, name: str, process: subprocess.Popen[bytes], pipes: _Pipes, ears: Ears
    ) -> None:
        self._adapter = adapter
        self._name = name
        self._process = process
        self._handle = os.pidfd_open(process.pid)
        self._journal = bytearray()
        self._control = pipes.control
        self._out = Inlet(pipes.stdout, ears.stdout)
        self._err = Inlet(pipes.stderr, ears.stderr)
        self._said = Inlet(pipes.journal, self._note)
        self._report = Inlet(pipes.report, ears.report.feed, ears.report.finish)
        self._going = False
        self._ended = False
        os.set_blocking(pipes.control, False)

    @classmethod
    def start(cls, adapter: ProcessAdapter, berth: Berth, ears: Ears) -> "ProcessLink":
        """Start the launcher; raises SandboxUnavailable when it can't be started."""
        group = berth.group
        control, stdout, stderr, report, journal = (os.pipe() for _ in range(5))
        ours = _Pipes(control[1], stdout[0], stderr[0], report[0], journal[0])
        theirs = [control[0], stdout[1], stderr[1], report[1], journal[1]]
        wiring = Wiring(
            berth.name,
            report[1],
            journal[1],
            berth.egress,
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
        return cls(adapter, berth.name, process, ours, ears)

    @property
    def alive(self) -> bool:
        """True while its process is."""
        return not self._ended and self._process.poll() is None

    async def send(self, parts: list[bytes]) -> None:
        """Send to the runner; the first time, the launcher becomes the sandbox."""
        head = [] if self._going else [b"go\n"]
        self._going = True
        await send(self._control, head + parts)

    def drain(self, most: int) -> None:
        """Hear what is in the pipes: their writers are dead."""
        self._out.drain(most)
        self._err.drain(most)

    def refusal(self) -> tuple[str, str]:
        """What the adapter makes of the sandbox's complaints."""
        self._said.drain(1 << 16)
        return self._adapter.refusal(bytes(self._journal)), self._journal.decode(errors="replace")

    async def out_of_memory(self) -> bool:
        """Its control group knows."""
        return False

    def _note(self, chunk: bytes) -> None:
        self._journal += chunk[: max(4096 - len(self._journal), 0)]

    def kill(self) -> None:
        """Kill everything in it."""
        self._signal(self._adapter.kill_signal)

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
            for inlet in (self._out, self._err, self._said, self._report):
                inlet.close()
            os.close(self._control)
            self._adapter.forget(self._name)
