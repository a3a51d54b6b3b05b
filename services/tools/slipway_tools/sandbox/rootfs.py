"""The read-only root of the sandbox: the Python interpreter, its standard library, and what is declared beside it.

It is copied once from the interpreter that runs this service, so that no folder of the host has to be visible in the
sandbox, an interpreter below a private home can be used at all, and only declared packages are there. The folder's
name is a digest of what it was made from: another interpreter gets another folder.
"""

import contextlib
import hashlib
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from slipway_tools.sandbox import packages
from slipway_tools.sandbox.errors import SandboxUnavailable

LAYOUT = 2  # raise it when the layout below changes
_LEFT_OUT = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
        "venv",
    }
)
_FOLDERS = ("dev", "etc", "proc", "run/egress", "sys", "usr/bin", "usr/lib", "work")
_LINKS = {"tmp": "work", "bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib", "usr/lib64": "lib"}
DEVICES = ("null", "zero", "random", "urandom")
INTERPRETER = "/usr/bin/python3"
INSIDE_HOME = "/usr/lib/slipway/slipway_tools"
RUNNER = f"{INSIDE_HOME}/sandbox/runner.pyc"
EGRESS = "/run/egress"
INSIDE = tuple(
    f"sandbox/{name}.py" for name in ("__init__", "runner", "interpreter", "workspace", "relay", "confine", "agent")
)


def runner_command(report: int, *, egress: bool) -> list[str]:
    """The command of the sandbox's first process, as seen from inside."""
    return [INTERPRETER, "-I", "-S", "-X", "utf8", RUNNER, str(report), "egress" if egress else "alone"]


@dataclass(frozen=True)
class Image:
    """What a sandbox's root holds beside the interpreter: programs of the machine, and packages of this environment.

    It lies in `state_dir`; when the user that the sandbox maps to can't reach that folder, because the service is root
    and works below a private home, it lies in `/var/cache/slipway` instead.
    """

    state_dir: Path
    programs: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()

    def build(self, reader_uid: int) -> Path:
        """Return the folder of the sandbox's root, built first if it is not there.

        Raises:
            SandboxUnavailable: the folder can't be written, libraries can't be found, or a package is not installed.
        """
        parent = self.state_dir if _reachable(self.state_dir, reader_uid) else Path("/var/cache/slipway")
        target = parent / f"sandbox-python-{self._digest()}"
        if _usable(target):
            return target
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with _scratch(parent) as scratch:
                _build(scratch, self.programs, self.packages)
                # Another instance may have been quicker: its folder has the same content.
                with contextlib.suppress(FileExistsError, OSError):
                    scratch.rename(target)
        except OSError as error:
            raise SandboxUnavailable(f"the sandbox's Python can't be put into {parent}: {error.strerror}") from error
        if not _usable(target):
            raise SandboxUnavailable(f"{target} is not owned by this service's user: remove it")
        return target

    def export(self, folder: Path) -> None:
        """Put the sandbox's root into the empty folder `folder`, as the content of a container's image.

        Raises:
            SandboxUnavailable: libraries can't be found, or a package is not installed.
            OSError: the folder is not empty, or can't be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        _build(folder, self.programs, self.packages)

    def _digest(self) -> str:
        binary = _interpreter().stat()
        programs = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.programs]
        own = (LAYOUT, sys.version, str(_interpreter()), binary.st_size, binary.st_mtime_ns, inside())
        return hashlib.sha256(repr((own, programs, packages.versions(self.packages))).encode()).hexdigest()[:16]


def inside() -> list[bytes]:
    """The sources of what runs inside."""
    return [_source(name).read_bytes() for name in INSIDE]


def _usable(folder: Path) -> bool:
    """Only a folder of our own user, that nobody else can write, is trusted."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


def _reachable(folder: Path, reader_uid: int) -> bool:
    if reader_uid == os.geteuid():
        return True
    absolute = folder.absolute()
    for level in (absolute, *absolute.parents):
        with contextlib.suppress(FileNotFoundError):
            info = level.stat()
            if info.st_uid != reader_uid and not info.st_mode & stat.S_IXOTH:
                return False
    return True


@contextlib.contextmanager
def _scratch(parent: Path) -> Generator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix=".sandbox-python-", dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _interpreter() -> Path:
    # `_base_executable` is the interpreter behind a virtual environment.
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def _source(name: str) -> Path:
    return Path(__file__).parent.parent / name


def _build(root: Path, programs: tuple[Path, ...], distributions: tuple[str, ...]) -> None:
    root.chmod(0o755)
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    for name, target in _LINKS.items():
        (root / name).symlink_to(target)
    for device in DEVICES:
        (root / "dev" / device).touch()  # mount points
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copyfile(_interpreter(), root / "usr/bin" / version)
    (root / "usr/bin" / version).chmod(0o755)
    (root / "usr/bin/python3").symlink_to(version)
    library = root / "usr/lib" / version
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_leave_out, symlinks=False)
    for program in programs:
        shutil.copyfile(program.resolve(), root / "usr/bin" / program.name)
        (root / "usr/bin" / program.name).chmod(0o755)
    if not (root / "usr/bin/sh").exists() and (root / "usr/bin/bash").exists():
        (root / "usr/bin/sh").symlink_to("bash")
    site = library / "site-packages"
    site.mkdir()
    packages.copy(distributions, site)
    extensions = [*(library / "lib-dynload").glob("*.so"), *site.rglob("*.so*")]
    for shared in _shared_libraries([root / "usr/bin" / version, *extensions, *programs]):
        shutil.copyfile(shared, root / "usr/lib" / shared.name)
        (root / "usr/lib" / shared.name).chmod(0o755)
    home = root / INSIDE_HOME[1:]
    (home / "sandbox").mkdir(parents=True)
    for name in ("__init__.py", *INSIDE):
        py_compile.compile(str(_source(name)), str(home / f"{name}c"), dfile=name, doraise=True)
    # Without byte code every call would compile the modules that it imports: the root is read-only there.
    # In a process of its own: it forks workers, which a process with threads must not.
    command = [str(_interpreter()), "-I", "-m", "compileall", "-q", "-j", "0", "-s", str(root), str(library)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)  # noqa: S603
    _open_for_reading(root)


def _leave_out(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names if name in _LEFT_OUT or name.startswith(("config-", "_tkinter")) or name.endswith(".a")
    }


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    """Ask the loader which libraries the binaries need, the loader itself included."""
    ldd = shutil.which("ldd")
    if ldd is None:
        raise SandboxUnavailable("the sandbox's Python needs `ldd` to be prepared: install the C library's tools")
    # The environment keeps LD_LIBRARY_PATH: the service's own interpreter may need it.
    listing = subprocess.run([ldd, *map(str, binaries)], capture_output=True, text=True, check=False).stdout  # noqa: S603
    original = subprocess.run([ldd, str(_interpreter())], capture_output=True, text=True, check=False).stdout  # noqa: S603
    found = {Path(path) for path in re.findall(r"(/\S+)\s+\(0x", listing + original)}
    if not any(path.name.startswith("libc.so") for path in found):
        raise SandboxUnavailable(
            "the sandbox's Python needs a glibc system: `ldd` names no libc.so for this interpreter"
        )
    return {path for path in found if path.is_file()}


def _open_for_reading(root: Path) -> None:
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder) / name
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(0o755 if stat.S_ISDIR(mode) or mode & 0o100 else 0o644)
