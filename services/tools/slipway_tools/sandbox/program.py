"""A program as it goes into a sandbox, and what comes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Runtime = Literal["python", "shell", "node"]
Ended = Literal["exited", "timeout", "flood", "lost", "setup"]
ResultKind = Literal["none", "file", "large", "unsafe"]


@dataclass(frozen=True)
class Program:
    """What to run.

    `code` is its source. `files` are written into the workspace first. `outputs` are patterns of files to bring out
    (`*` matches `/` too). `keep` has a session's Python interpreter live on.
    """

    code: bytes = b""
    runtime: Runtime = "python"
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    seconds: float = 30.0
    outputs: tuple[str, ...] = ()
    keep: bool = False


@dataclass(frozen=True)
class LeftFile:
    """A file that a program left; `whole` False: it was longer than may come out, and `content` is empty."""

    name: str
    content: bytes
    whole: bool


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    `exit_status` is the shell's (128 + n after signal n). `ended` is "lost" when the whole sandbox was killed from
    outside (the kernel, for want of memory), "setup" when the files did not fit. `stdout` and `stderr` hold what was
    printed up to the limit of a flood. `free_bytes` and `free_names` are what was left of the workspace, -1 unknown.
    """

    ended: Ended
    exit_status: int
    stdout: bytes = b""
    stderr: bytes = b""
    result_kind: ResultKind = "none"
    result: bytes = b""
    files: tuple[LeftFile, ...] = ()
    listing: tuple[tuple[str, int], ...] = ()
    free_bytes: int = -1
    free_names: int = -1
    out_of_memory: bool = False
    out_of_processes: bool = False
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    seconds: float = 0.0
    kept: bool = False
