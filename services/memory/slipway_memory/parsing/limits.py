"""Limits of the parsing process."""

from __future__ import annotations

import ctypes
import resource
import signal
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """`seconds` of CPU and, by the parent, of wall time; `memory_bytes` of address space; the rest bounds output."""

    seconds: int = 60
    memory_bytes: int = 1024 * 1024 * 1024
    text_characters: int = 16 * 1024 * 1024
    output_bytes: int = 256 * 1024 * 1024


def confine(limits: ParseLimits) -> None:
    """Confines the current process for good: no files written, no children, bounded memory and time, and it dies with
    the process that started it.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
