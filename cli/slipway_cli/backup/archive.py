"""The folder that a backup is: files, the SHA-256 of each, and a manifest that is written last.

manifest.json           what the backup is of, and the SHA-256 of SHA256SUMS; without it the backup is unfinished
SHA256SUMS              of every other file, as `sha256sum --check` reads it
databases/SERVICE.dump  of pg_dump, in its custom format
objects/…               originals of documents and files of runs, by their keys
sessions.jsonl          conversations
heads/TENANT.heads.jsonl  signed heads of the audit logs
settings/NAME           files that users of one machine edit
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway_cli.backup.refusal import BackupRefusedError
from slipway_cli.supervisor.data_dir import write_private

FORMAT = 1
_MANIFEST, _SUMS = "manifest.json", "SHA256SUMS"
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """What a backup is of.

    `time`: RFC 3339, the moment that the backup shows. `postgres`: major version of the server. `migrations`: by
    service, those that its database has, with their SHA-256. `keys`: SHA-256 of each key without which the data is of
    no use. `sums`: SHA-256 of SHA256SUMS.
    """

    time: str
    postgres: int
    migrations: dict[str, dict[str, str]]
    keys: dict[str, str]
    sums: str = ""
    format: int = FORMAT


def fingerprint(key: str) -> str:
    """The SHA-256 of a key, in hex: keys have 256 random bits, so it tells nothing about them."""
    return hashlib.sha256(key.encode()).hexdigest()


def finish(folder: Path, manifest: Manifest) -> int:
    """Sums up the files and writes the manifest; answers with the bytes of all of it."""
    files = {file: _digest(file) for file in sorted(_files(folder))}
    lines = "".join(f"{digest}  {file.relative_to(folder)}\n" for file, digest in files.items())
    write_private(folder / _SUMS, lines)
    content = {**asdict(manifest), "sums": hashlib.sha256(lines.encode()).hexdigest()}
    write_private(folder / _MANIFEST, json.dumps(content, indent=1))
    return sum(file.stat().st_size for file in files)


def read(folder: Path) -> Manifest:
    """The manifest of a backup whose files are all there, as they were written. Raises BackupRefusedError."""
    manifest = _read_manifest(folder)
    try:
        sums = (folder / _SUMS).read_text()
    except (OSError, UnicodeDecodeError):
        sums = ""
    if hashlib.sha256(sums.encode()).hexdigest() != manifest.sums:
        raise BackupRefusedError(f"{folder / _SUMS} is damaged: fetch the backup again, or take an older one")
    for line in sums.splitlines():
        digest, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file():
            raise BackupRefusedError(f"{file} is missing: fetch the backup again, or take an older one")
        if _digest(file) != digest:
            raise BackupRefusedError(
                f"{file} is not as it was written (cut off or changed): fetch the backup again, or take an older one"
            )
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    file = folder / _MANIFEST
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        format_ = int(content["format"])
    except FileNotFoundError:
        raise BackupRefusedError(
            f"{folder} holds no {_MANIFEST}: it is no backup, or one that was not finished; take another"
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise BackupRefusedError(f"{file} is damaged: fetch the backup again, or take an older one") from None
    if format_ != FORMAT:
        raise BackupRefusedError(
            f"{folder} has format {format_}, this release reads {FORMAT}: restore it with the release that made it"
        )
    try:
        return Manifest(**content)
    except TypeError:
        raise BackupRefusedError(f"{file} is damaged: fetch the backup again, or take an older one") from None


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and file.name not in (_MANIFEST, _SUMS))


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
