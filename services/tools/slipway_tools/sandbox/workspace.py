"""Runs inside the sandbox: files of the workspace, written for a program and taken from it.

Nothing here trusts what lies there: links are not followed, and only regular files are read.
"""

from __future__ import annotations

import os

WORK = "/work"
USER = 1000
PICTURES = (".png", ".svg")
_MOST_ENTRIES = 20_000


def write(name: str, content: bytes) -> None:
    """Write a file in place of what is there, as the program's; raises OSError."""
    path = f"{WORK}/{name}"
    parts = name.split("/")
    for depth in range(1, len(parts)):
        folder = f"{WORK}/{'/'.join(parts[:depth])}"
        if not os.path.isdir(folder):
            os.mkdir(folder)
            _give_away(folder)
    try:  # contextlib is not imported in here
        os.unlink(path)
    except FileNotFoundError:
        pass
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        _give_away(descriptor)
    finally:
        os.close(descriptor)


def _give_away(file: str | int) -> None:
    if os.getuid() == 0:
        os.chown(file, USER, USER)


def remove(name: str) -> None:
    """Remove a file if there is one."""
    try:
        os.unlink(f"{WORK}/{name}")
    except OSError:
        pass


def walk() -> list[tuple[str, os.stat_result]]:
    """Regular files below the workspace by path, with their status."""
    found: list[tuple[str, os.stat_result]] = []
    folders = [""]
    entries = 0
    while folders and entries < _MOST_ENTRIES:
        folder = folders.pop()
        try:
            scan = os.scandir(f"{WORK}/{folder}")
        except OSError:
            continue
        with scan:
            for entry in scan:
                entries += 1
                if entries > _MOST_ENTRIES:
                    break
                name = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        found.append((name, entry.stat(follow_symlinks=False)))
                except OSError:
                    continue  # gone meanwhile
    found.sort()
    return found


def pictures() -> dict[str, tuple[int, int, int]]:
    """Pictures by path, each with what changes when it is written again."""
    return {
        name: (info.st_ino, info.st_mtime_ns, info.st_size) for name, info in walk() if name.lower().endswith(PICTURES)
    }


def content(name: str, limit: int) -> tuple[int, bytes] | None:
    """Size and content of a regular file, the content empty when it is longer than `limit`; None: there is none."""
    descriptor = _open(name)
    if descriptor is None or descriptor < 0:
        return None
    size = os.fstat(descriptor).st_size
    if size > limit:
        os.close(descriptor)
        return size, b""
    whole = _take(descriptor, size)
    return len(whole), whole


def result(limit: int) -> tuple[bytes, bytes]:
    """What result.json is, and its content if it is a file of at most `limit` bytes."""
    descriptor = _open("result.json")
    if descriptor is None:
        return b"none", b""
    if descriptor < 0:
        return b"unsafe", b""
    size = os.fstat(descriptor).st_size
    if size > limit:
        os.close(descriptor)
        return b"large", b""
    return b"file", _take(descriptor, size)


def _open(name: str) -> int | None:
    """A descriptor of a regular file; None: there is nothing; -1: it is something else."""
    try:
        descriptor = os.open(f"{WORK}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return -1
    if os.fstat(descriptor).st_mode & 0o170000 != 0o100000:
        os.close(descriptor)
        return -1
    return descriptor


def _take(descriptor: int, size: int) -> bytes:
    """At most `size` bytes; closes the descriptor."""
    parts: list[bytes] = []
    while size and (part := os.read(descriptor, min(size, 1 << 20))):
        parts.append(part)
        size -= len(part)
    os.close(descriptor)
    return b"".join(parts)
