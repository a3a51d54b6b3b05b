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
import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

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


class WarmProgram:
    """A program that waits to be forked; its `main(arguments)` is what a process runs."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._watches: set[asyncio.Task[None]] = set()

    async def start(self, *arguments: str, environment: Mapping[str, str]) -> WarmProcess:
        """Starts a process with these arguments and nothing but this environment."""
        request = json.dumps({"arguments": arguments, "environment": dict(environment)}).encode()
        assert len(request) <= _REQUEST_LIMIT
        own, theirs = socket.socketpair()
        output, write = os.pipe()
        socket.send_fds(self._control, [request], [write, theirs.fileno()])
        os.close(write)
        theirs.close()
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
            process.wait(30)


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
            data, descriptors, _, _ = socket.recv_fds(control, _REQUEST_LIMIT, 2)
            if not data:
                return
            output, status = descriptors
            pid = os.fork()
            if pid == 0:
                inherited = [control.fileno(), status, *children, *(other for _, other in children.values())]
                _become(main, json.loads(data), output, inherited)
            os.close(output)
            _tell(status, pid)
            child = os.pidfd_open(pid)
            children[child] = (pid, status)
            poll.register(child, select.POLLIN)


def _tell(status: int, number: int) -> None:
    with suppress(BrokenPipeError):
        os.write(status, _NUMBER.pack(number))


def _become(main: Any, request: Mapping[str, Any], output: int, inherited: Sequence[int]) -> None:
    """The forked process: it runs the program, and does not return."""
    code: object = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for descriptor in (output, *inherited):
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        code = main(request["arguments"])
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
