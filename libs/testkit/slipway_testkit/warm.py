"""Processes of a program that is imported once: each is forked from one that waits with everything imported.

A service's imports take a second of processor time, ten times what its start takes beside them. Who starts hundreds of
processes of one service starts them here; what they run, and how they are killed, is the same.
"""

import asyncio
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from typing import IO, Any

_NUMBER = struct.Struct("=i")
_REQUEST_LIMIT = 1 << 16
_PR_SET_PDEATHSIG = 1


class WarmProcess:
    """A process that was forked; like asyncio's own, as far as it goes. `stdout` carries its errors too."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        """Its exit status, or minus the signal that ended it; None while it runs."""
        self._ended = asyncio.Event()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens when the process has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Waits for its end; returns `returncode`."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    async def watch(self, ended: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes its end from the one that forked it."""
        try:
            (self.returncode,) = _NUMBER.unpack(await ended.readexactly(_NUMBER.size))
        except asyncio.IncompleteReadError:
            # That one has ended, and the kernel ends the process with it.
            self.returncode = -signal.SIGKILL
        finally:
            self._ended.set()
            writer.close()


class WarmPopen:
    """A process that was forked, for callers that wait in threads; like subprocess's own with text, as far as it goes.

    `stdout` carries its errors too.
    """

    def __init__(self, pid: int, stdout: IO[str], status: socket.socket) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        """Its exit status, or minus the signal that ended it; None until `poll` or `wait` has seen its end."""
        self._status = status
        self._waiting = threading.Lock()

    def poll(self) -> int | None:
        """Its `returncode`, when it has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; subprocess.TimeoutExpired after `timeout` seconds."""
        with self._waiting:
            if self.returncode is None:
                if not select.select([self._status], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
                self.returncode = _ended(self._status)
                self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal; nothing happens when the process has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class WarmProgram:
    """A program that waits to be forked; its `main`, with the arguments if it takes any, is what a process runs."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._watches: set[asyncio.Task[None]] = set()

    def popen(self, *arguments: str, environment: Mapping[str, str]) -> WarmPopen:
        """Starts a process with these arguments and nothing but this environment."""
        output, write = os.pipe()
        with os.fdopen(write, "wb") as pipe:
            status = self._fork(arguments, environment, pipe, pipe)
        return WarmPopen(_number(status), os.fdopen(output, "r", errors="replace"), status)

    def run(
        self, *arguments: str, environment: Mapping[str, str], timeout: float = 30
    ) -> subprocess.CompletedProcess[str]:
        """Runs a process to its end, which must come within `timeout` seconds; standard output and errors apart."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            status = self._fork(arguments, environment, output, errors)
            process = WarmPopen(_number(status), output, status)
            try:
                returncode = process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            for file in (output, errors):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, returncode, output.read(), errors.read())

    async def start(self, *arguments: str, environment: Mapping[str, str]) -> WarmProcess:
        """Starts a process with these arguments and nothing but this environment."""
        output, write = os.pipe()
        with os.fdopen(write, "wb") as pipe:
            own = self._fork(arguments, environment, pipe, pipe)
        lines = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(lines)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(output, "rb"))
        status, writer = await asyncio.open_connection(sock=own)
        (pid,) = _NUMBER.unpack(await status.readexactly(_NUMBER.size))
        process = WarmProcess(pid, lines)
        watch = asyncio.create_task(process.watch(status, writer))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return process

    def _fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: IO[Any], errors: IO[Any]
    ) -> socket.socket:
        """Asks for a process; answers with what its id comes over, and then how it ended."""
        request = json.dumps({"arguments": arguments, "environment": dict(environment)}).encode()
        assert len(request) <= _REQUEST_LIMIT
        own, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [request], [output.fileno(), errors.fileno(), theirs.fileno()])
        return own


def _number(status: socket.socket) -> int:
    (number,) = _NUMBER.unpack(status.recv(_NUMBER.size, socket.MSG_WAITALL))
    return number


def _ended(status: socket.socket) -> int:
    try:
        return _number(status)
    except (struct.error, ConnectionResetError):
        # The one that forked the process has ended, and the kernel ends the process with it.
        return -signal.SIGKILL


@contextmanager
def warm_program(module: str) -> Generator[WarmProgram]:
    """Imports `module` in a process of its own. What was started of it and still runs ends with it."""
    own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own, theirs:
        command = [sys.executable, "-m", __name__, module, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            yield WarmProgram(own)
        finally:
            own.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # it still imports, on a machine that does much else
                process.kill()
                process.wait()


def _serve(module: str, control: socket.socket) -> None:
    """Forks one process per request until the other side closes the socket."""
    main = importlib.import_module(module).main
    # What is there will stay: a collection in a child need not touch, and so copy, it.
    gc.collect()
    gc.freeze()
    children: dict[int, tuple[int, int]] = {}  # by the descriptor of the process: its id, and who waits for its end
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != control.fileno():
                poll.unregister(ready)
                pid, status = children.pop(ready)
                _tell(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                os.close(status)
                os.close(ready)
                continue
            data, descriptors, _, _ = socket.recv_fds(control, _REQUEST_LIMIT, 3)
            if not data:
                return
            output, errors, status = descriptors
            pid = os.fork()
            if pid == 0:
                inherited = [control.fileno(), status, *children, *(other for _, other in children.values())]
                _become(main, json.loads(data), (output, errors), inherited)
            os.close(output)
            os.close(errors)
            _tell(status, pid)
            child = os.pidfd_open(pid)
            children[child] = (pid, status)
            poll.register(child, select.POLLIN)


def _tell(status: int, number: int) -> None:
    with suppress(BrokenPipeError):
        os.write(status, _NUMBER.pack(number))


def _become(main: Any, request: Mapping[str, Any], outputs: tuple[int, int], inherited: Sequence[int]) -> None:
    """The forked process: it runs the program, and does not return."""
    code: object = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        for descriptor in (*outputs, *inherited):
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv[1:] = request["arguments"]
        code = main(sys.argv[1:]) if signature(main).parameters else main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 # as the interpreter does at the end of a program
        traceback.print_exc()
    finally:
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[2])) as control:
        _serve(sys.argv[1], control)
