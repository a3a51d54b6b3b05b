"""Which programs of this machine a sandbox gets, by runtime."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from slipway_tools.sandbox.errors import SandboxUnavailable

RUNTIMES = ("python", "shell", "node")
# What Debian's coreutils, grep, sed, gawk or mawk, findutils, diffutils and tar bring, as far as it makes sense inside.
_SHELL = [
    "[",
    "awk",
    "b2sum",
    "base32",
    "base64",
    "basename",
    "bash",
    "cat",
    "chmod",
    "cksum",
    "cmp",
    "comm",
    "cp",
    "csplit",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dir",
    "dirname",
    "du",
    "echo",
    "env",
    "expand",
    "expr",
    "factor",
    "false",
    "find",
    "fmt",
    "fold",
    "grep",
    "gzip",
    "head",
    "id",
    "install",
    "join",
    "link",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mktemp",
    "mv",
    "nl",
    "nproc",
    "numfmt",
    "od",
    "paste",
    "pathchk",
    "pr",
    "printenv",
    "printf",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "shuf",
    "sleep",
    "sort",
    "split",
    "stat",
    "sum",
    "sync",
    "tac",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "tsort",
    "uname",
    "unexpand",
    "uniq",
    "unlink",
    "vdir",
    "wc",
    "xargs",
    "yes",
]
_NEEDED = {"shell": ("bash", "cat", "ls"), "node": ("node",)}
_WANTED = {"shell": _SHELL, "node": ["node"]}


def programs(runtimes: Iterable[str]) -> tuple[Path, ...]:
    """The programs that the sandbox's root needs for `runtimes`.

    Raises:
        SandboxUnavailable: a runtime's own program is not installed on this machine.
    """
    found: dict[str, Path] = {}
    for runtime in runtimes:
        for name in _WANTED.get(runtime, ()):
            path = shutil.which(name)
            if path is not None:
                found[name] = Path(path)
            elif name in _NEEDED[runtime]:
                raise SandboxUnavailable(
                    f"{name} is not installed on this machine: install it,"
                    f" or take {runtime} out of SLIPWAY_TOOLS_SANDBOX_RUNTIMES"
                )
    return tuple(found[name] for name in sorted(found))


def installed() -> tuple[str, ...]:
    """The runtimes that this machine has all programs for."""
    return tuple(name for name in RUNTIMES if all(shutil.which(program) for program in _NEEDED.get(name, ())))
