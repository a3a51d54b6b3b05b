"""Stores what a program left: the files that were asked for, pictures, and output that was too long for the answer."""

import fnmatch
import hashlib
from collections.abc import Sequence
from typing import Protocol

import structlog
from slipway_chassis.errors import SlipwayError

from slipway_tools.result import StoredFile, ToolFailure
from slipway_tools.sandbox.program import LeftFile

log = structlog.get_logger(__name__)
_TYPES = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_PNG = b"\x89PNG\r\n\x1a\n"


class FileStore(Protocol):
    """Keeps files with the access of the current caller."""

    async def store(self, name: str, content: bytes, content_type: str) -> str:
        """Keep a file; its id. Raises what the store raises for this caller."""
        ...


def cut(name: str, raw: bytes, keep: int) -> LeftFile | None:
    """Output of more than `keep` bytes, as the file that is to be stored; None: the answer has room for it."""
    return LeftFile(name, raw, whole=True) if len(raw) > keep else None


def shown(name: str, raw: bytes, keep: int, stored: Sequence[StoredFile]) -> str:
    """Output for the answer: up to `keep` bytes, with a marker that says how much is left out and where it is."""
    if len(raw) <= keep:
        return raw.decode(errors="replace")
    kept = any(file.name == name for file in stored)
    where = f"the first {len(raw)} are the file {name}" if kept else "they could not be stored"
    return f"{raw[:keep].decode(errors='replace')}\n[truncated: {len(raw) - keep} more bytes; {where}]"


def missing(outputs: Sequence[str], files: Sequence[LeftFile]) -> ToolFailure | None:
    """A failure that names the first of `outputs` that no file answers to."""
    for pattern in outputs:
        if not any(fnmatch.fnmatchcase(file.name, pattern) for file in files):
            return ToolFailure("MISSING_OUTPUT", f"The program left no file {pattern}.")
    return None


async def keep(
    store: FileStore, files: Sequence[LeftFile], outputs: Sequence[str]
) -> tuple[list[StoredFile], ToolFailure | None]:
    """Store `files`; what `outputs` asked for must be stored, the rest is left out with a note in the log."""
    stored: list[StoredFile] = []
    for file in files:
        asked = any(fnmatch.fnmatchcase(file.name, pattern) for pattern in outputs)
        if not file.whole or not (asked or _is_what_it_says(file)):
            continue
        kind = _content_type(file)
        try:
            file_id = await store.store(file.name, file.content, kind)
        except SlipwayError as error:
            if asked:
                message = f"{file.name} can't be stored: {error.message}"
                return stored, ToolFailure("FILES_NOT_STORED", f"{message}.".replace("..", "."), retryable=True)
            log.warning("sandbox.file_not_stored", name=file.name, reason=error.reason)
            continue
        digest = hashlib.sha256(file.content).hexdigest()
        stored.append(StoredFile(file.name, file_id, kind, len(file.content), digest))
    return stored, None


def _is_what_it_says(file: LeftFile) -> bool:
    """Pictures nobody asked for by name are looked at: a name alone makes no picture."""
    name = file.name.lower()
    if name.endswith(".png"):
        return file.content.startswith(_PNG)
    if name.endswith(".svg"):
        return b"<svg" in file.content[:4096] and b"\x00" not in file.content[:4096]
    return True


def _content_type(file: LeftFile) -> str:
    suffix = "." + file.name.lower().rpartition(".")[2]
    return _TYPES.get(suffix, "application/octet-stream")
