"""One sandbox from start to end: started ahead up to the point where nsjail takes over, then given one program."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import Literal

import structlog

from slipway_tools.measures import SANDBOX_START
from slipway_tools.sandbox.cgroups import SlotGroup
from slipway_tools.sandbox.errors import SandboxUnavailable
from slipway_tools.sandbox.jail import LAUNCHER, Jail

log = structlog.get_logger(__name__)
_START_SECONDS = 10.0
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


@dataclass(frozen=True)
class _Pipes:
    """Our ends of the launcher's pipes, as descriptors."""

    control: int
    stdout: int
    stderr: int
    report: int
    journal: int

    def close(self) -> None:
        for descriptor in (self.control, self.stdout, self.stderr, self.report, self.journal):
            os.close(descriptor)


class Launch:
    """A launcher that has joined its control groups and waits for `run`, once.

    The process is started by `subprocess` and waited for by its pidfd: event loops differ in how they start and reap
    children, and a signal by number could hit a stranger that got the number meanwhile.
    """

    def __init__(self, jail: Jail, group: SlotGroup | None, process: subprocess.Popen[bytes], pipes: _Pipes) -> None:
        self._jail = jail
        self._group = group
        self._process = process
        self._pipes = pipes
        self._handle = os.pidfd_open(process.pid)

    @classmethod
    def start(cls, jail: Jail, group: SlotGroup | None) -> "Launch":
        """Start the launcher; raises SandboxUnavailable when it can't be started."""
        control, stdout, stderr, report, journal = (os.pipe() for _ in range(5))
        pipes = _Pipes(control[1], stdout[0], stderr[0], report[0], journal[0])
        theirs = (control[0], stdout[1], stderr[1], report[1], journal[1])
        groups = [str(folder) for folder in group.folders] if group else []
        command = jail.command(report[1], journal[1], pin=group is None or not group.bounds_cpu)
        try:
            process = subprocess.Popen(  # noqa: S603
                ["/bin/sh", "-c", LAUNCHER, "slipway-sandbox", *groups, "--", *command],
                stdin=control[0],
                stdout=stdout[1],
                stderr=stderr[1],
                pass_fds=(report[1], journal[1]),
                start_new_session=True,
                cwd="/",
                env={},
            )
        except OSError as error:
            pipes.close()
            raise SandboxUnavailable(f"the sandbox can't be started: {error.strerror}", retry_after=5) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return cls(jail, group, process, pipes)

    @property
    def alive(self) -> bool:
        """True while it can still take a program."""
        return self._process.poll() is None

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
        ended: Ended = "exited"
        answer = b""
        ready = False
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            report = await _reader(self._pipes.report, stack)
            readers = [
                await _reader(pipe, stack) for pipe in (self._pipes.stdout, self._pipes.stderr, self._pipes.journal)
            ]
            control = await _writer(self._pipes.control, stack)
            async with asyncio.TaskGroup() as group:
                for stream, reader in zip((stdout, stderr, journal), readers, strict=True):
                    group.create_task(stream.drain(reader))
                try:
                    # The launcher reads its line, the runner the rest. The pipe stays open: its end ends the sandbox.
                    control.write(_request(program, limits.result))
                    ready = await _came_up(report)
                    if ready:
                        SANDBOX_START.observe(time.monotonic() - started)
                        ended, answer = await _answer(report, budget, program.seconds)
                finally:
                    self._kill()
        if not ready:
            log.error("sandbox.start_failed", nsjail=journal.kept.decode(errors="replace"))
            raise SandboxUnavailable(_reason(bytes(journal.kept)), retry_after=5)
        out_of_memory = self._group is not None and self._group.oom_kills() > oom_before
        seconds = time.monotonic() - started
        return _outcome(ended, answer, bytes(stdout.kept), bytes(stderr.kept), out_of_memory, seconds)

    async def discard(self) -> None:
        """End a launcher that was not used."""
        self._pipes.close()
        await self._end()

    def _kill(self) -> None:
        # The first process of the sandbox dies with nsjail (PR_SET_PDEATHSIG), and with it its PID namespace.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    async def _end(self) -> None:
        """Kill, wait, reap."""
        self._kill()
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._handle, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(self._handle)
            os.close(self._handle)
            self._process.wait()


async def _came_up(report: asyncio.StreamReader) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START_SECONDS):
            return await report.readline() == b"ready\n"
    return False


async def _reader(pipe: int, stack: contextlib.AsyncExitStack) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=_CHUNK)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", 0)
    )
    stack.callback(transport.close)
    return reader


async def _writer(pipe: int, stack: contextlib.AsyncExitStack) -> asyncio.WriteTransport:
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, os.fdopen(pipe, "wb", 0))
    stack.callback(lambda: None if transport.is_closing() else transport.abort())
    return transport


def _request(program: Program, result_limit: int) -> bytes:
    sizes = (len(program.code), len(program.stdin), len(program.files), math.ceil(program.seconds), result_limit)
    parts = [b"go\n", b"%d %d %d %d %d\n" % sizes, program.code, program.stdin]
    for name, content in program.files.items():
        encoded = name.encode()
        parts += [b"%d %d\n" % (len(encoded), len(content)), encoded, content]
    return b"".join(parts)


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
