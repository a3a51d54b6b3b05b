"""What goes to the runner inside a sandbox, and what comes back: see `runner.py` for the protocol.

The report is untrusted: a program that took over its runner could write any. Every number is bounded here, and every
name checked.
"""

import marshal
import math
import os
import re
import unicodedata

from slipway_tools.sandbox.limits import Limits
from slipway_tools.sandbox.pipes import Report
from slipway_tools.sandbox.program import Ended, LeftFile, Outcome, Program, ResultKind

_KINDS: dict[bytes, ResultKind] = {b"none": "none", b"file": "file", b"large": "large", b"unsafe": "unsafe"}
_MOST_FILES = 256
_MOST_LISTED = 1_000
_LONGEST_NAME = 4096
_NAME = re.compile(r"(?!/)[^\x00-\x1f\x7f]{1,512}")
# What a name is shown differently by: controls, formats (right-to-left overrides, blanks without width), line ends.
_MISLEADING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def encode(program: Program, limits: Limits, *, listing: bool) -> list[bytes]:
    """The parts of a `run` message."""
    head = {
        "op": "run",
        "runtime": program.runtime,
        "code_size": len(program.code),
        "stdin_size": len(program.stdin),
        "files": [(name, len(content)) for name, content in program.files.items()],
        "cpu": math.ceil(program.seconds * limits.cpus),
        # Node.js reserves far more than it uses: its memory is bounded by the control group only.
        "address_space": 0 if program.runtime == "node" else limits.memory,
        "result": limits.result,
        "outputs": list(program.outputs),
        "collect": limits.collect,
        "keep": program.keep,
        "listing": listing,
    }
    message = marshal.dumps(head)
    return [b"%08x" % len(message) + message + program.code + program.stdin, *program.files.values()]


async def read_report(report: Report, limits: Limits) -> Outcome:
    """Read one report; raises PipeEnded when the sandbox is gone, ValueError for what no runner would write."""
    fields = (await report.line()).split()
    if len(fields) != 11 or fields[0] != b"done":
        raise ValueError("no report")
    kind = fields[2]
    status, size, cpu_us, maxrss, free_bytes, free_names, kept, files, listed = map(int, [fields[1], *fields[3:]])
    if not 0 <= size <= limits.result or not 0 <= files <= _MOST_FILES or not 0 <= listed <= _MOST_LISTED:
        raise ValueError("a report beyond its bounds")
    result = await report.exactly(size)
    left = await _files(report, files, limits.collect)
    listing = [await _listed(report) for _ in range(listed)]
    ended: Ended = "setup" if kind == b"setup" else "exited"
    if ended == "exited" and kind not in _KINDS:
        raise ValueError("an unknown kind of result")
    return Outcome(
        ended=ended,
        exit_status=1 if ended == "setup" else _exit_status(status),
        result_kind=_KINDS.get(kind, "none"),
        result=result,
        files=tuple(file for file in left if _is_plain(file.name)),
        listing=tuple(entry for entry in listing if _is_plain(entry[0])),
        free_bytes=free_bytes,
        free_names=free_names,
        cpu_seconds=max(cpu_us, 0) / 1e6,
        peak_memory=max(maxrss, 0) * 1024,
        kept=bool(kept),
    )


async def _files(report: Report, number: int, most: int) -> list[LeftFile]:
    files: list[LeftFile] = []
    for _ in range(number):
        name_size, size, whole = map(int, (await report.line()).split())
        if not 0 < name_size <= _LONGEST_NAME or not 0 <= size <= most:
            raise ValueError("a file beyond its bounds")
        most -= size
        name = await report.exactly(name_size)
        files.append(LeftFile(_text(name), await report.exactly(size), bool(whole)))
    return files


async def _listed(report: Report) -> tuple[str, int]:
    name_size, size = map(int, (await report.line()).split())
    if not 0 < name_size <= _LONGEST_NAME:
        raise ValueError("a name beyond its bounds")
    return _text(await report.exactly(name_size)), max(size, 0)


def _is_plain(name: str) -> bool:
    shown = not any(unicodedata.category(character) in _MISLEADING for character in name)
    return shown and _NAME.fullmatch(name) is not None


def _text(name: bytes) -> str:
    # A name that is no UTF-8 becomes one with a control character, which no check of names lets through.
    try:
        return name.decode()
    except UnicodeDecodeError:
        return "\x00"


def _exit_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status & 0xFFFF)
    return code if code >= 0 else 128 - code
