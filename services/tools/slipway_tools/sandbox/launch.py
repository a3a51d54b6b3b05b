"""One sandbox from start to end: started ahead up to the point where nsjail takes over, then given one program."""

import asyncio
import contextlib
import math
import os
import signal
import time
from dataclasses import dataclass
from typing import Literal

import structlog

from slipway_tools.sandbox.cgroups import SlotGroup
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.jail import LAUNCHER, Jail

log = structlog.get_logger(__name__)
_START_SECONDS = 10.0
_END_SECONDS = 10.0
_CHUNK = 1 << 16

Ended = Literal["exited", "timeout", "flood", "lost", "setup"]
ResultKind = Literal["none", "file", "large", "unsafe"]


@dataclass(frozen=True)
class Program:
    """What to run: the code, standard input, files by name in the workspace, and the most seconds it may take."""

    code: bytes
    stdin: bytes
    files: dict[str, bytes]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    `exit_status` is the shell's (128 + n after signal n). `ended` is "lost" when the whole sandbox was killed from
    outside (the kernel, for want of memory), "setup" when the files did not fit.
    """

    ended: Ended
    exit_status: int
    stdout: bytes
    stderr: bytes
    result_kind: ResultKind
    result: bytes
    out_of_memory: bool
    seconds: float


class _Stream:
    """A pipe that is drained to its end and kept up to a limit; `flooded` is set when the common budget is gone."""

    def __init__(self, keep: int, budget: "_Budget") -> None:
        self.kept = bytearray()
        self._keep = keep
        self._budget = budget

    async def drain(self, reader: asyncio.StreamReader) -> None:
        while chunk := await reader.read(_CHUNK):
            self.kept += chunk[: max(self._keep - len(self.kept), 0)]
            self._budget.spend(len(chunk))


class _Budget:
    def __init__(self, limit: int) -> None:
        self._left = limit
        self.gone = asyncio.Event()

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            self.gone.set()


class Launch:
    """A launcher that has joined its control groups and waits for `run`, once."""

    def __init__(
        self,
        jail: Jail,
        group: SlotGroup | None,
        process: asyncio.subprocess.Process,
        handle: int,
        pipes: tuple[int, int],
    ) -> None:
        self._jail = jail
        self._group = group
        self._process = process
        self._handle = handle  # a pidfd: a signal by number could hit a stranger that got the number meanwhile
        self._report_pipe, self._journal_pipe = pipes

    @classmethod
    async def start(cls, jail: Jail, group: SlotGroup | None) -> "Launch":
        """Start the launcher; raises SandboxUnavailable when it can't be started."""
        report_read, report_write = os.pipe()
        journal_read, journal_write = os.pipe()
        groups = [str(folder) for folder in group.folders] if group else []
        try:
            process = await asyncio.create_subprocess_exec(
                *("/bin/sh", "-c", LAUNCHER, "slipway-sandbox", str(report_write), *groups, "--"),
                *jail.command(report_write, journal_write),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(report_write, journal_write),
                start_new_session=True,
                cwd="/",
                env={},
            )
            handle = os.pidfd_open(process.pid)
        except OSError as error:
            os.close(report_read)
            os.close(journal_read)
            raise SandboxUnavailable(f"the sandbox can't be started: {error.strerror}", retry_after=5) from error
        finally:
            os.close(report_write)
            os.close(journal_write)
        return cls(jail, group, process, handle, (report_read, journal_read))

    @property
    def alive(self) -> bool:
        """True while it can still take a program."""
        return self._process.returncode is None

    async def run(self, program: Program) -> Outcome:
        """Run one program and wait until nothing of it is left.

        Raises:
            SandboxUnavailable: the sandbox did not come up; no code of the program was run.
        """
        started = time.monotonic()
        oom_before = self._group.oom_kills() if self._group else 0
        limits = self._jail.limits
        budget = _Budget(limits.flood)
        stdout, stderr = _Stream(limits.stream, budget), _Stream(limits.stream, budget)
        journal = _Stream(4096, _Budget(1 << 62))
        process = self._process
        assert process.stdin and process.stdout and process.stderr  # noqa: S101
        ended: Ended = "exited"
        async with contextlib.AsyncExitStack() as stack:
            report = await _reader(self._report_pipe, stack)
            journal_reader = await _reader(self._journal_pipe, stack)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(stdout.drain(process.stdout))
                    group.create_task(stderr.drain(process.stderr))
                    group.create_task(journal.drain(journal_reader))
                    feeding = group.create_task(_feed(process.stdin, program, limits.result))
                    try:
                        ready = await self._come_up(report)
                        answer = b""
                        if ready:
                            ended, answer = await _answer(report, budget, program.seconds)
                    finally:
                        self._kill()
                        feeding.cancel()
                    await asyncio.wait_for(process.wait(), _END_SECONDS)
            finally:
                self._kill()
                process.stdin.close()
                os.close(self._handle)
        if not ready:
            log.error("sandbox.start_failed", nsjail=journal.kept.decode(errors="replace"))
            raise SandboxUnavailable(_reason(journal.kept), retry_after=5)
        out_of_memory = bool(self._group) and self._group.oom_kills() > oom_before  # type: ignore[union-attr]
        seconds = time.monotonic() - started
        return _outcome(ended, answer, bytes(stdout.kept), bytes(stderr.kept), out_of_memory, seconds)

    async def _come_up(self, report: asyncio.StreamReader) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                if await report.readline() == b"joined\n":
                    return await report.readline() == b"ready\n"
        return False

    async def discard(self) -> None:
        """End a launcher that was not used."""
        self._kill()
        os.close(self._report_pipe)
        os.close(self._journal_pipe)
        os.close(self._handle)
        await self._process.wait()

    def _kill(self) -> None:
        # The first process of the sandbox dies with nsjail (PR_SET_PDEATHSIG), and with it its PID namespace.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)


async def _reader(pipe: int, stack: contextlib.AsyncExitStack) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_CHUNK)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0)
    )
    stack.callback(transport.close)
    return reader


async def _feed(stdin: asyncio.StreamWriter, program: Program, result_limit: int) -> None:
    """Tell the launcher to go on, then the runner what to run. It stays open: its end would end the sandbox."""
    sizes = (len(program.code), len(program.stdin), len(program.files), math.ceil(program.seconds), result_limit)
    with contextlib.suppress(ConnectionError):
        stdin.write(b"go\n" + b"%d %d %d %d %d\n" % sizes + program.code + program.stdin)
        for name, content in program.files.items():
            encoded = name.encode()
            stdin.write(b"%d %d\n" % (len(encoded), len(content)) + encoded + content)
            await stdin.drain()
        await stdin.drain()


async def _answer(report: asyncio.StreamReader, budget: _Budget, seconds: float) -> tuple[Ended, bytes]:
    """Wait for the runner's report, for too much output, or for the time to be up."""
    reading = asyncio.ensure_future(report.read())
    flooding = asyncio.ensure_future(budget.gone.wait())
    try:
        done, _ = await asyncio.wait({reading, flooding}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if budget.gone.is_set():
            return "flood", b""
        return ("exited", reading.result()) if reading in done else ("timeout", b"")
    finally:
        reading.cancel()
        flooding.cancel()


def _outcome(ended: Ended, answer: bytes, stdout: bytes, stderr: bytes, out_of_memory: bool, seconds: float) -> Outcome:
    """Read the runner's report. Without a whole one the sandbox was lost: the kernel killed its first process."""
    head, _, result = answer.partition(b"\n")
    fields = head.split()
    kind: ResultKind = "none"
    status = 128 + signal.SIGKILL
    if ended == "exited":
        if len(fields) != 3 or int(fields[2]) != len(result):
            ended, result = "lost", b""
        elif fields[1] == b"setup":
            ended, status = "setup", 1
        else:
            wait_status = int(fields[0])
            code = os.waitstatus_to_exitcode(wait_status)
            status = code if code >= 0 else 128 - code
            kind = _KINDS[fields[1]]
    # An uncaught MemoryError is how the limit on address space shows.
    out_of_memory = out_of_memory or (status != 0 and stderr.rstrip().rpartition(b"\n")[2].startswith(b"MemoryError"))
    return Outcome(ended, status, stdout, stderr, kind, result, out_of_memory, seconds)


_KINDS: dict[bytes, ResultKind] = {b"none": "none", b"file": "file", b"large": "large", b"unsafe": "unsafe"}

_REFUSALS = (
    (b"CLONE_NEWUSER", "the kernel lets this user make no user namespace"),
    (b"uid_map", "the kernel lets this user map no user into a user namespace"),
    (b"gid_map", "the kernel lets this user map no group into a user namespace"),
    (b"mount(", "the kernel lets this user mount nothing in a user namespace"),
    (b"pivot_root", "the kernel refuses pivot_root in a user namespace"),
    (b"seccomp", "the kernel takes no seccomp filter"),
)


def _reason(journal: bytes) -> str:
    """What nsjail complained about, without its paths."""
    found = next((text for mark, text in _REFUSALS if mark in journal), "nsjail did not start the program")
    return f"the sandbox can't be started: {found} (`python -m slipway_tools.sandbox_check` says more)"
