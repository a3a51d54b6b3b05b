"""Making a backup of an installation that is running."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slipway_cli.backup import archive, databases, installation, keys, service, sessions
from slipway_cli.backup.installation import Installation
from slipway_cli.backup.refusal import BackupRefusedError

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Taken:
    """What was backed up: the moment (RFC 3339), and how much."""

    time: str
    bytes: int
    objects: int
    sessions: int


async def take(
    data_dir: Path, source: Installation, folder: Path, keys_file: Path, passphrase: str | None, tell: Tell
) -> Taken:
    """Writes the backup to `folder` and the keys to `keys_file`, neither of which may be there.

    When it fails neither is. Raises BackupRefusedError.
    """
    secrets = installation.key_files(data_dir)
    marks = installation.fingerprints(secrets)
    _make(folder, keys_file)
    try:
        taken = await _fill(source, folder, marks, tell)
        keys.write(keys_file, secrets, passphrase)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise BackupRefusedError(
                f"{folder} can't be written ({error.strerror or error}): make room there, or name another folder"
            ) from None
        raise
    return taken


def _make(folder: Path, keys_file: Path) -> None:
    if keys_file.exists():
        raise BackupRefusedError(f"{keys_file} is there already: name another file by --keys")
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupRefusedError(f"{folder} is there already: a backup is made in a new folder") from None
    except OSError as error:
        raise BackupRefusedError(f"{folder} can't be made ({error.strerror}): name another folder") from None


async def _fill(source: Installation, folder: Path, marks: dict[str, str], tell: Tell) -> Taken:
    for name in ("databases", "objects", "heads"):
        (folder / name).mkdir(mode=0o700)
    tell("objects, those that are there now")
    objects = await service.save_objects(source, folder / "objects")
    sizes: dict[Path, int] = {}
    tell("databases")
    async with databases.hold_snapshots(source.databases, lambda: sizes.update(_sizes(source.heads))) as snapshots:
        for file, size in sizes.items():
            _copy(file, folder / "heads" / file.name, size)
        client = sessions.connect(source.redis)
        try:
            conversations = await sessions.save(client, folder / "sessions.jsonl")
        finally:
            await client.aclose()
        await databases.dump(source.databases, snapshots, folder / "databases")
    tell("objects, those that came meanwhile")
    objects += await service.save_objects(source, folder / "objects")
    manifest = archive.Manifest(
        time=snapshots.time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        postgres=snapshots.postgres,
        migrations=dict(snapshots.migrations),
        keys=marks,
    )
    return Taken(manifest.time, archive.finish(folder, manifest), objects, conversations)


def _sizes(heads: Path) -> dict[Path, int]:
    """Heads get to their files after they were committed: while nothing is appended, files are not ahead."""
    return {file: file.stat().st_size for file in heads.glob("*.heads.jsonl")}


def _copy(file: Path, to: Path, size: int) -> None:
    with file.open("rb") as source, to.open("wb") as target:
        while size > 0 and (chunk := source.read(min(size, 1024 * 1024))):
            target.write(chunk)
            size -= len(chunk)
