"""Runs inside the sandbox as its first process: starts the program, ends all it left behind, collects the result.

It is copied into the sandbox's read-only root, and imports what it needs before a byte of the caller's is on disk. It
shares its user with the program, but a process can neither signal the first process of its PID namespace, nor trace
it, nor open its descriptors: there is no /proc, and the system calls are filtered.

Control channel (descriptor 0): `code_size stdin_size file_count cpu_seconds result_limit\n`, the code, standard
input, then for each file `name_size size\n`, name, content. The channel stays open; its end means that the service is
gone, and with it goes the sandbox. Report channel (descriptor given as first argument): `ready\n` before anything is
read; at the end `wait_status kind size\n` and the result's bytes, where kind is `none`, `file`, `large` or `unsafe`
(or `setup`, with an error number as status, when the files did not fit).
"""

import _signal  # pyright: ignore[reportMissingImports]
import _thread
import os
import resource
import sys

WORK = "/work"
RESULT = "/work/result.json"


def serve() -> bytes | None:
    """Serve one request and report; in the forked process that is to become the program, return its code."""
    report = int(sys.argv[1])
    # Python's handler would make this process one that its own namespace can interrupt.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    os.write(report, b"ready\n")
    control = os.fdopen(os.dup(0), "rb")
    code_size, stdin_size, file_count, cpu_seconds, result_limit = map(int, control.readline().split())
    try:
        code = control.read(code_size)
        _write("main.py", code)
        _write(".stdin", control.read(stdin_size))
        for _ in range(file_count):
            name_size, size = map(int, control.readline().split())
            name = control.read(name_size).decode()
            _write(name, control.read(size))
        stdin = os.open(WORK + "/.stdin", os.O_RDONLY | os.O_CLOEXEC)
        os.unlink(WORK + "/.stdin")
        child = os.fork()
    except OSError as error:
        _report(report, error.errno or 1, b"setup", b"")
        return None
    if child == 0:
        os.dup2(stdin, 0)
        control.close()
        os.close(stdin)
        os.close(report)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
        return code
    _thread.start_new_thread(_leave_with_the_service, (control,))
    status = _wait_for(child)
    _end_all_others()
    kind, result = _result(result_limit)
    _report(report, status, kind, result)
    return None


def become(code: bytes) -> None:
    """Run the caller's code as `__main__`; its own modules come after the standard library's."""
    os.environ.clear()
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    sys.argv[:] = ["main.py"]
    sys.path.append(WORK)
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__file__ = "main.py"
    main.__dict__["__builtins__"] = __builtins__
    try:
        exec(compile(code, "main.py", "exec"), main.__dict__)  # noqa: S102 - that is the purpose
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
        # The traceback starts in the caller's code, not here.
        frames = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(frames), frames)
        sys.exit(1)


def _write(name: str, content: bytes) -> None:
    if "/" in name:
        os.makedirs(os.path.dirname(f"{WORK}/{name}"), exist_ok=True)
    descriptor = os.open(f"{WORK}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.close(descriptor)


def _leave_with_the_service(control: object) -> None:
    while control.read(1):  # type: ignore[attr-defined]
        pass
    os._exit(1)


def _wait_for(child: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _end_all_others() -> None:
    """Kill until no process of this namespace is left; orphans become children of this one."""
    while True:
        try:  # noqa: SIM105 - contextlib is not imported in here
            os.kill(-1, 9)
        except ProcessLookupError:
            pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _result(limit: int) -> tuple[bytes, bytes]:
    try:
        descriptor = os.open(RESULT, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b"none", b""
    except OSError:
        return b"unsafe", b""
    info = os.fstat(descriptor)
    if info.st_mode & 0o170000 != 0o100000:
        return b"unsafe", b""
    if info.st_size > limit:
        return b"large", b""
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"file", b"".join(parts)


def _report(report: int, status: int, kind: bytes, result: bytes) -> None:
    view = memoryview(b"%d %s %d\n" % (status, kind, len(result)) + result)
    while view:
        view = view[os.write(report, view) :]


program = serve()
if program is not None:
    become(program)
