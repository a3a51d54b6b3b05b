"""Runs inside the sandbox, in the process that becomes a Python program: once, or as a session's kept interpreter."""

from __future__ import annotations

import _signal  # pyright: ignore[reportMissingImports]
import _sitebuiltins  # pyright: ignore[reportMissingImports]
import atexit
import builtins
import gc
import os
import resource
import sys

TYPE_CHECKING = False  # what is imported in here is paid for by every cold call
if TYPE_CHECKING:
    from types import ModuleType

WORK = "/work"
USER = 1000


def make_ready() -> ModuleType:
    """The module that a program runs as; what every program needs is done once, so that its pages are our own then."""
    main = _main_module()
    exec(compile(b"pass", "main.py", "exec"), {})  # noqa: S102
    gc.collect()
    return main


def become(code: bytes, main: ModuleType) -> None:
    """Run the caller's code as `__main__` and end; its own modules come after the standard library's."""
    _leave(_run(code, main))


def interpret(requests: int, answers: int) -> None:
    """Run main.py for each request, in one module that keeps its names.

    A request is the processor time allowed, an answer wait status and microseconds used: each 8 hex digits.
    """
    main = _main_module()
    while head := os.read(requests, 8):
        before = _used()
        bound_cpu(int(head, 16) + int(before) + 1, for_good=False)
        status = _run_cell(main)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        spent = min(round((_used() - before) * 1e6), 0xFFFFFFFF)
        os.write(answers, b"%08x%08x" % ((status & 255) << 8, spent))


def leave_root() -> None:
    """Where the first process is the sandbox's root (gVisor), a program is not, and can't signal or read it."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(USER)
        os.setuid(USER)


def bound_cpu(seconds: int, *, for_good: bool) -> None:
    """Processor time of each process; `for_good`: ignoring the signal at its end gains a second only."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    if most != resource.RLIM_INFINITY:
        seconds = min(seconds, most)
    elif for_good:
        most = seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, most))


def _run_cell(main: ModuleType) -> int:
    """Run main.py; its exit status."""
    _take_stdin()
    with open(f"{WORK}/main.py", "rb") as file:
        return _run(file.read(), main)


def _run(code: bytes, main: ModuleType) -> int:
    """Run code in a module; the exit status that Python would end with."""
    try:
        exec(compile(code, "main.py", "exec"), main.__dict__)  # noqa: S102 - that is the purpose
    except SystemExit as leave:
        if leave.code is None or isinstance(leave.code, int):
            return leave.code or 0
        sys.stderr.write(f"{leave.code}\n")
        return 1
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
        _show(error)
        return 1
    return 0


def _leave(status: int) -> None:
    """End as Python does: threads, exit handlers, what the program still holds, its output.

    Python would go on and take every module apart, which touches all the memory shared with the first process and takes
    longer than all the rest of a short call.
    """
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    except BaseException as error:  # noqa: BLE001
        _show(error)
    own = [module for module in list(sys.modules.values()) if _is_the_programs(module)]
    for module in (sys.modules["__main__"], *own):
        module.__dict__.clear()  # files that are still open are written and closed
    del own
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            status = status or 120
    os._exit(status & 255)


def _is_the_programs(module: object) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and file.startswith(f"{WORK}/")


def _take_stdin() -> None:
    """Standard input of this request; the first one's came with the process."""
    try:
        stdin = os.open(f"{WORK}/.stdin", os.O_RDONLY)
    except FileNotFoundError:
        return
    os.dup2(stdin, 0)
    os.close(stdin)
    os.unlink(f"{WORK}/.stdin")
    sys.stdin = open(0, closefd=False)  # noqa: SIM115


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _main_module() -> ModuleType:
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    sys.argv[:] = ["main.py"]
    packages = f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    if packages not in sys.path:
        sys.path.append(packages)
    sys.path.append(WORK)
    # What `site` would have done: it takes longer than all the rest of the start.
    builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()  # pyright: ignore[reportPrivateUsage]
    main = sys.modules["__main__"] = type(sys)("__main__")
    main.__file__ = "main.py"
    main.__dict__["__builtins__"] = __builtins__
    return main


def _show(error: BaseException) -> None:
    # The traceback starts in the caller's code, not here.
    frames = error.__traceback__ and error.__traceback__.tb_next
    sys.excepthook(type(error), error.with_traceback(frames), frames)
