"""Signed heads in files, append-only, so that somebody else can hold them: one file per tenant, a JSON line per head.

They lie outside the database on purpose. A database that was restored from a backup is behind them, and that is how the
service notices.
"""

import json
import os
from pathlib import Path

from slipway_evidence.checkpoint import CheckpointError, parse_checkpoint
from slipway_evidence.note import NoteError, parse_note

from slipway_audit.errors import LogInconsistent

_TAIL = 128 * 1024  # bytes; a line is a note of at most 64 KiB, escaped


class HeadsFolder:
    """The folder of the files `<tenant>.heads.jsonl`."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder if it is not there. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def append(self, tenant: str, note: str) -> None:
        """Add a signed head; on disk when it returns. Raises OSError."""
        line = json.dumps({"note": note}, ensure_ascii=False).encode() + b"\n"
        descriptor = os.open(self._path(tenant), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            # A line that a crash has cut off is closed, so that it does not swallow this one.
            torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * bool(torn) + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def last(self, tenant: str) -> str | None:
        """The newest whole line's note, or None. Raises OSError; LogInconsistent for a file that holds none."""
        path = self._path(tenant)
        if not path.exists():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")
        for line in reversed(lines):
            note = _note(line)
            if note is not None:
                return note
        raise LogInconsistent(f"{path} holds no signed head at its end")

    def _path(self, tenant: str) -> Path:
        return self._folder / f"{tenant}.heads.jsonl"


def _note(line: bytes) -> str | None:
    try:
        note = json.loads(line)["note"]
        parse_checkpoint(parse_note(note).text)
    except (ValueError, KeyError, TypeError, AttributeError, NoteError, CheckpointError):
        return None
    return str(note)
