"""Runs inside the sandbox as its first process: starts programs, ends all they left behind, collects their results.

It is copied into the sandbox's read-only root, and imports what it needs before a byte of the caller's is on disk. A
program can neither signal it, nor trace it, nor open its descriptors: it is the first process of its PID namespace and
there is no /proc (nsjail), or it is another user (gVisor). What it reports is untrusted all the same: the other side
bounds and checks it.

Control (descriptor 0): messages of a length (8 hex digits) and a marshalled dictionary of that length; after `run` the
raw bytes whose sizes it gives: code, standard input, files. `stop` ends the program that runs. The end of the channel
means that the service is gone, and with it goes the sandbox.

Report (descriptor given as first argument): `ready\\n`; then for each `run`

    done STATUS KIND RESULT_SIZE CPU_US MAXRSS_KIB FREE_BYTES FREE_NAMES KEPT FILES NAMES\\n

the result's bytes, FILES times `NAME_SIZE SIZE WHOLE\\n` with name and content, NAMES times `NAME_SIZE SIZE\\n` with a
name. KIND is `none`, `file`, `large`, `unsafe`, or `setup` (with an error number as STATUS: the files did not fit).
"""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import gc
import marshal
import os
import resource
import select
import sys

TYPE_CHECKING = False  # what is imported in here is paid for by every cold call
if TYPE_CHECKING:
    from types import FrameType, ModuleType
    from typing import Any

sys.path.insert(0, "/usr/lib/slipway")
from slipway_tools.sandbox import interpreter as python  # noqa: E402
from slipway_tools.sandbox import workspace  # noqa: E402

CONTROL = 0
MOST_LISTED = 1_000
MOST_PICTURES = 16
SCRIPTS = {"python": "main.py", "shell": "main.sh", "node": "main.js"}
COMMANDS = {"shell": ["/usr/bin/bash", "main.sh"], "node": ["/usr/bin/node", "main.js"]}
ENVIRONMENT = {"PATH": "/usr/bin", "HOME": "/work", "LANG": "C.UTF-8"}


class Runner:
    """Serves the control channel; `serve` returns only in a child that is to become a Python program."""

    def __init__(self, report: int, relay: ModuleType | None) -> None:
        self.report = report
        self.relay = relay  # for programs that may use the network
        self.listener: Any = relay.listen() if relay else None
        self.relaying = 0
        self.interpreter: tuple[int, int, int] | None = None  # process, its requests, its answers
        self.interpreter_cpu = 0  # microseconds that it spent on the last request
        self.ahead: tuple[int, int] | None = None  # a child that waits for its program, and the pipe it hears of it by
        self.wake, self.wakened = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # Python's own handler would make this process one that its own namespace can interrupt.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        _signal.signal(_signal.SIGCHLD, _nothing)
        _signal.set_wakeup_fd(self.wakened, warn_on_full_buffer=False)

    def serve(self) -> tuple[Any, ...]:
        """Run what is asked for; in the child, what to become.

        That is `program`, its code and its main module, or `interpreter` and its pipes.
        """
        gc.freeze()  # what is here now is shared with every program: collecting must not touch it
        os.write(self.report, b"ready\n")
        while True:
            if self.interpreter is None and self.relay is None:
                then = self.fork_ahead()
                if then is not None:
                    return then
            request = _receive()
            if request["op"] == "run":
                then = self.run(request)
                if then is not None:
                    return then

    def run(self, request: dict[str, Any]) -> tuple[Any, ...] | None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.interpreter_cpu = 0
        try:
            code, stdin = self.set_up(request)
        except OSError as error:
            self.answer(request, error.errno or 1, b"setup", b"", before, [])
            return None
        seen = workspace.pictures()
        try:
            self.start_relay()
            if request["keep"] and self.interpreter is not None:
                status = self.ask(request["cpu"])
            else:
                pipes = (*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)) if request["keep"] else None
                child = self.waiting_child(request, pipes) or os.fork()
                if child == 0:
                    return self.begin(request, code, stdin, pipes)
                if pipes:
                    self.interpreter = (child, pipes[1], pipes[2])
                    os.close(pipes[0])
                    os.close(pipes[3])
                    status = self.ask(request["cpu"])
                else:
                    status = self.wait(child, None)
        except OSError as error:
            self.answer(request, error.errno or 1, b"setup", b"", before, [])
            return None
        finally:
            os.close(stdin)
        if self.interpreter is None:
            self.end_all_others()
        kind, result = workspace.result(request["result"])
        self.answer(request, status, kind, result, before, self.left(request["outputs"], seen))
        return None

    def fork_ahead(self) -> tuple[Any, ...] | None:
        """Have a child wait for the next program, with what a fork costs behind it; in it, what to become then."""
        hear, tell = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child:
            os.close(hear)
            self.ahead = (child, tell)
            return None
        os.close(tell)
        main = python.make_ready()
        message = os.read(hear, select.PIPE_BUF)
        if not message:
            os._exit(0)
        os.close(hear)
        request = marshal.loads(message)  # noqa: S302 - from the parent
        stdin = os.open(f"{workspace.WORK}/.stdin", os.O_RDONLY | os.O_CLOEXEC)
        workspace.remove(".stdin")
        code = b""
        if request["runtime"] == "python":
            with open(f"{workspace.WORK}/main.py", "rb", buffering=0) as file:
                code = file.readall()
        return self.begin(request, code, stdin, None, main)

    def waiting_child(self, request: dict[str, Any], pipes: tuple[int, ...] | None) -> int:
        """The child that was forked ahead, told what to run; 0: there is none, or an interpreter is to be begun."""
        if self.ahead is None:
            return 0
        child, tell = self.ahead
        self.ahead = None
        try:
            if pipes is None:
                told = {name: request[name] for name in ("runtime", "cpu", "address_space")}
                os.write(tell, marshal.dumps(told))
        except OSError:
            pass  # it was killed, for want of memory: the wait tells so
        finally:
            os.close(tell)
        if pipes is None:
            return child
        os.waitpid(child, 0)
        return 0

    def set_up(self, request: dict[str, Any]) -> tuple[bytes, int]:
        """Write what the program needs; its code, and a descriptor of its standard input. Raises OSError."""
        code = _read(request["code_size"])
        stdin = _read(request["stdin_size"])
        for stale in ("result.json", ".stdin", *SCRIPTS.values()):
            workspace.remove(stale)
        failed: OSError | None = None
        files = [(SCRIPTS[request["runtime"]], code), (".stdin", stdin)]
        for name, size in request["files"]:
            try:
                while files and failed is None:
                    workspace.write(*files.pop(0))
            except OSError as error:
                failed = error
            files = [(name, _read(size))]  # read them all, written or not: the next message comes after them
        if failed is not None:
            raise failed
        for file in files:
            workspace.write(*file)
        descriptor = os.open(f"{workspace.WORK}/.stdin", os.O_RDONLY | os.O_CLOEXEC)
        takes_it = self.interpreter if request["keep"] else self.ahead
        if takes_it is None:
            workspace.remove(".stdin")
        return code, descriptor

    def begin(
        self,
        request: dict[str, Any],
        code: bytes,
        stdin: int,
        pipes: tuple[int, ...] | None,
        main: ModuleType | None = None,
    ) -> tuple[Any, ...]:
        """In the child: become the program, or tell what Python is to run."""
        python.leave_root()
        os.setpgid(0, 0)  # a signal to its own group is not one to the runner
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.dup2(stdin, 0)
        for descriptor in (self.report, self.wake, self.wakened, *(self.interpreter[1:] if self.interpreter else ())):
            os.close(descriptor)
        if request["address_space"]:
            resource.setrlimit(resource.RLIMIT_AS, (request["address_space"],) * 2)
        os.environ.clear()
        network: dict[str, str] = {}
        if self.relay:
            self.listener.close()
            network = self.relay.ENVIRONMENT
        if request["runtime"] == "python":
            os.environ.update(network)
            if pipes:
                os.close(pipes[1])
                os.close(pipes[2])
                return ("interpreter", pipes[0], pipes[3])
            python.bound_cpu(request["cpu"], for_good=True)
            return ("program", code, main or python.make_ready())
        python.bound_cpu(request["cpu"], for_good=True)
        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # Python ignores them
            _signal.signal(number, _signal.SIG_DFL)
        command = COMMANDS[request["runtime"]]
        try:
            os.execve(command[0], command, {**ENVIRONMENT, **network})  # noqa: S606
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)

    def start_relay(self) -> None:
        if self.relay and not _lives(self.relaying):
            inherited = [CONTROL, self.report, self.wake, self.wakened]
            self.relaying = self.relay.start(self.listener, inherited, python.leave_root)

    def ask(self, cpu: int) -> int:
        """Have the kept interpreter run main.py; its status, as `wait` gives it."""
        assert self.interpreter  # noqa: S101
        child, requests, answers = self.interpreter
        try:
            os.write(requests, b"%08x" % cpu)
        except OSError:
            pass  # it died between calls: the wait tells how
        return self.wait(child, answers)

    def wait(self, child: int, answers: int | None) -> int:
        """Wait for the program's end, or the interpreter's answer; do what comes over the control channel meanwhile."""
        poller = select.poll()
        for descriptor in (CONTROL, self.wake, *(() if answers is None else (answers,))):
            poller.register(descriptor, select.POLLIN)
        while True:
            ended = _reap(child)
            if ended is not None:
                if self.interpreter is not None and self.interpreter[0] == child:
                    os.close(self.interpreter[1])
                    os.close(self.interpreter[2])
                    self.interpreter = None
                return ended
            for descriptor, _ in poller.poll():
                if descriptor == CONTROL:
                    _receive()  # `stop` is all that can come now
                    _kill_all_others()
                elif descriptor == self.wake:
                    os.read(self.wake, 4096)
                elif answer := os.read(descriptor, 16):
                    self.interpreter_cpu = int(answer[8:], 16)
                    return int(answer[:8], 16)
                else:
                    poller.unregister(descriptor)

    def end_all_others(self) -> None:
        """Kill until no process of this namespace is left; orphans become children of this one."""
        while True:
            _kill_all_others()
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return

    def left(self, outputs: list[str], seen: dict[str, tuple[int, int, int]]) -> list[str]:
        """Names of the files to bring out: those that match `outputs`, then new pictures."""
        names: list[str] = []
        if outputs:
            import fnmatch

            names = [name for name, _ in workspace.walk() if any(fnmatch.fnmatchcase(name, p) for p in outputs)]
        new = [name for name, stamp in workspace.pictures().items() if name not in names and seen.get(name) != stamp]
        return names + new[:MOST_PICTURES]

    def answer(
        self,
        request: dict[str, Any],
        status: int,
        kind: bytes,
        result: bytes,
        before: resource.struct_rusage,
        names: list[str],
    ) -> None:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = round((after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e6) + self.interpreter_cpu
        space = os.statvfs(workspace.WORK)
        room = request["collect"]
        files: list[tuple[bytes, int, bytes]] = []
        for name in names:
            content = workspace.content(name, room)
            if content is not None:
                room -= len(content[1])
                files.append((os.fsencode(name), *content))
        listed = workspace.walk()[:MOST_LISTED] if request["listing"] else []
        kept = self.interpreter is not None
        free = (space.f_bavail * space.f_frsize, space.f_favail)
        head = (status, kind, len(result), cpu, after.ru_maxrss, *free, kept, len(files), len(listed))
        parts = [b"done %d %s %d %d %d %d %d %d %d %d\n" % head, result]
        for name, size, content in files:
            parts += [b"%d %d %d\n" % (len(name), len(content), size == len(content)), name, content]
        for name, info in listed:
            encoded = os.fsencode(name)
            parts += [b"%d %d\n" % (len(encoded), info.st_size), encoded]
        view = memoryview(b"".join(parts))
        while view:
            view = view[os.write(self.report, view) :]


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


def _receive() -> dict[str, Any]:
    return marshal.loads(_read(int(_read(8), 16)))  # noqa: S302 - from the service


def _read(size: int) -> bytes:
    parts: list[bytes] = []
    while size:
        part = os.read(CONTROL, min(size, 1 << 20))
        if not part:
            os._exit(1)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _reap(child: int) -> int | None:
    """Reap all that have ended; the wait status of `child` if it is among them."""
    ended: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            ended = status


def _kill_all_others() -> None:
    try:
        os.kill(-1, 9)
    except ProcessLookupError:
        pass


def _lives(process: int) -> bool:
    if process <= 1:
        return False
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def main() -> tuple[Any, ...]:
    relay: ModuleType | None = None
    if sys.argv[2] == "egress":
        from slipway_tools.sandbox import relay
    sys.path.remove("/usr/lib/slipway")
    for name in [name for name in sys.modules if name.startswith("slipway_tools")]:
        del sys.modules[name]  # programs see the standard library and their own modules only
    return Runner(int(sys.argv[1]), relay).serve()


then = main()
if then[0] == "program":
    python.become(then[1], then[2])
else:
    python.interpret(then[1], then[2])
