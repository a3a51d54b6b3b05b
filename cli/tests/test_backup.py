"""`slipway backup` and `slipway restore`: what can't be used is told before anything is written."""

import asyncio
import base64
import json
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from redis import Redis
from slipway_cli.backup import archive, installation, keys
from slipway_cli.backup.archive import Manifest
from slipway_cli.backup.refusal import BackupRefusedError
from slipway_cli.main import app
from slipway_cli.supervisor.data_dir import SERVICES, DataDir
from slipway_testkit.servers.postgres import PostgresServer, embedded_postgres
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.stack import SLIPWAY
from typer.testing import CliRunner

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Keys and secrets of an installation."""
    directory = DataDir(tmp_path_factory.mktemp("keys") / "data")
    directory.acquire()
    directory.secrets()
    for name in ("gateway", "audit"):
        command = [sys.executable, "-m", f"slipway_{name}.keys", "init", str(directory.keys / name)]
        subprocess.run(command, check=True, capture_output=True)
    directory.release()
    return installation.key_files(directory.path)


def finish(folder: Path, key_files: dict[str, bytes]) -> None:
    """Makes a whole backup of a folder."""
    migrations: dict[str, dict[str, str]] = {service: {} for service in SERVICES}
    archive.finish(folder, Manifest("2026-11-25T12:00:00.000Z", 18, migrations, installation.fingerprints(key_files)))


@pytest.fixture
def backup(tmp_path: Path, key_files: dict[str, bytes]) -> Path:
    """A whole backup, of databases that have no migration yet; its keys are beside it."""
    folder = tmp_path / "backup"
    (folder / "databases").mkdir(parents=True)
    for service in SERVICES:
        (folder / "databases" / f"{service}.dump").write_bytes(b"PGDMP" + bytes(100))
    (folder / "sessions.jsonl").touch()
    finish(folder, key_files)
    keys.write(tmp_path / "backup.keys", key_files, None)
    return folder


@pytest.fixture
def restore(backup: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs the command, which must refuse, and leave everything as it was; answers with its sentence."""

    def run(*arguments: str) -> str:
        before = sorted(file for file in tmp_path.rglob("*") if file.is_file())
        result = CliRunner().invoke(app, ["restore", str(backup), "--data-dir", str(tmp_path / "new"), *arguments])
        assert (result.exit_code, result.exception is None or isinstance(result.exception, SystemExit)) == (1, True)
        assert sorted(file for file in tmp_path.rglob("*") if file.is_file()) == before
        return result.stderr

    return run


def test_a_backup_that_was_cut_off_or_changed_is_refused(backup: Path, restore: Callable[..., str]) -> None:
    dump = backup / "databases" / "memory.dump"
    dump.write_bytes(dump.read_bytes()[:-1])
    assert f"{dump} is not as it was written (cut off or changed): fetch the backup again" in restore()
    dump.unlink()
    assert f"{dump} is missing: fetch the backup again" in restore()
    sums = backup / "SHA256SUMS"
    sums.write_text(sums.read_text().partition("\n")[2])
    assert f"{sums} is damaged" in restore()
    (backup / "manifest.json").unlink()
    assert "was not finished; take another" in restore()


def test_the_sums_are_those_that_everybody_can_check(backup: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=backup, check=True, capture_output=True)


def test_keys_that_are_missing_open_cut_off_or_of_another_backup_are_refused(
    backup: Path, restore: Callable[..., str], tmp_path: Path, key_files: dict[str, bytes]
) -> None:
    file = tmp_path / "backup.keys"
    file.chmod(0o644)
    assert f"{file} can be read by others: chmod 600" in restore()
    file.chmod(0o600)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    assert f"{file} is cut off, or holds no keys of a backup" in restore()
    file.unlink()
    assert "name their file by --keys; without them the data can't be used" in restore()
    keys.write(file, {name: text for name, text in key_files.items() if name != installation.LOG_KEY}, None)
    assert "lack keys/audit/log.key" in restore()
    file.unlink()
    secrets = json.loads(key_files["secrets.json"])
    secrets["data_keys"]["memory"] = secrets["data_keys"]["audit"]
    keys.write(file, {**key_files, "secrets.json": json.dumps(secrets).encode()}, None)
    assert f"the data key of memory in {file} is not that of this backup" in restore()


def test_encrypted_keys_open_with_their_passphrase_alone(
    backup: Path, restore: Callable[..., str], tmp_path: Path, key_files: dict[str, bytes]
) -> None:
    file, passphrase = tmp_path / "backup.keys", tmp_path / "passphrase"
    file.unlink()
    keys.write(file, key_files, PASSPHRASE)
    assert b"PRIVATE" not in file.read_bytes()
    assert keys.read(file, PASSPHRASE) == key_files
    assert f"{file} is encrypted: name the file of its passphrase by --passphrase-file" in restore()
    passphrase.write_text(f"{PASSPHRASE}!\n")
    assert "does not open: the passphrase is another" in restore("--passphrase-file", str(passphrase))
    passphrase.write_text("short\n")
    assert "is shorter than 12 characters" in restore("--passphrase-file", str(passphrase))


def test_keys_that_do_not_fit_on_the_disk_leave_no_file(tmp_path: Path, key_files: dict[str, bytes]) -> None:
    file = tmp_path / "backup.keys"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(BackupRefusedError, match=r"can't be written to .*backup\.keys \(File too large\)"):
            keys.write(file, key_files, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not file.exists()


def test_a_backup_of_another_format_or_a_newer_release_is_refused(
    backup: Path, restore: Callable[..., str], key_files: dict[str, bytes]
) -> None:
    migrations: dict[str, dict[str, str]] = {service: {} for service in SERVICES}
    migrations["router"] = {"9999_later.sql": "0" * 64}
    marks = installation.fingerprints(key_files)
    archive.finish(backup, Manifest("2026-11-25T12:00:00.000Z", 18, migrations, marks))
    assert "its database of router has the migration 9999_later.sql, which this one does not know" in restore()
    manifest = backup / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    assert "has format 2, this release reads 1: restore it with the release that made it" in restore()


def test_an_installation_that_is_there_is_not_written_over(restore: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "secrets.json").write_text("{}")
    assert f"{tmp_path / 'new'} is not empty: a backup makes a new installation" in restore()


def test_without_an_installation_or_its_servers_there_is_no_backup(tmp_path: Path) -> None:
    def refused(data_dir: Path) -> str:
        result = CliRunner().invoke(app, ["backup", str(tmp_path / "backup"), "--data-dir", str(data_dir)])
        assert result.exit_code == 1
        assert not (tmp_path / "backup").exists()
        return result.stderr

    data_dir = tmp_path / "data"
    assert f"{data_dir} holds no installation" in refused(data_dir)
    directory = DataDir(data_dir)
    directory.acquire()
    directory.secrets()
    directory.release()
    assert "uses servers of yours: name their file by --servers" in refused(data_dir)
    for name in ("postgres", "valkey"):
        (data_dir / name).mkdir()
    assert f"the embedded servers of {data_dir} do not run: start the stack" in refused(data_dir)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_backup_that_is_interrupted_leaves_nothing(
    tmp_path: Path, key_files: dict[str, bytes], number: signal.Signals
) -> None:
    for name, content in key_files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    (tmp_path / "objects").mkdir()
    file, folder = tmp_path / "servers.yaml", tmp_path / "backup"
    # Takes connections and says nothing: there the backup waits.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        file.write_text(
            f"postgres: postgresql://p@{address}/postgres\n"
            f"redis: redis://{address}/0\n"
            f"objects: {(tmp_path / 'objects').as_uri()}\n"
        )
        # A shell that started the tests in the background had them ignore SIGINT.
        command = ["env", f"--default-signal={number.name.removeprefix('SIG')}", SLIPWAY, "backup", str(folder)]
        command += ["--data-dir", str(tmp_path / "data"), "--servers", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "… databases" in line:
                    break
            assert (folder / "databases").is_dir()
            process.send_signal(number)
            said = process.stdout.read()
    assert process.returncode == 130, said
    assert "interrupted: what was made is taken away again" in said
    assert not folder.exists()
    assert not folder.with_suffix(".keys").exists()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own: roles belong to all of it."""
    with embedded_postgres(tcp=True) as running:
        yield running


async def names(server: PostgresServer) -> list[str]:
    connection = await asyncpg.connect(server.url())
    try:
        rows = await connection.fetch(
            "SELECT datname AS name FROM pg_database WHERE datname LIKE 'slipway%'"
            " UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE 'slipway%' ORDER BY name"
        )
    finally:
        await connection.close()
    return [row["name"] for row in rows]


@pytest.mark.timeout(300)
def test_a_restore_that_fails_on_the_way_takes_away_what_it_made(
    backup: Path,
    restore: Callable[..., str],
    key_files: dict[str, bytes],
    server: PostgresServer,
    valkey_server: RedisServer,
    tmp_path: Path,
) -> None:
    (backup / "objects" / "documents").mkdir(parents=True)
    (backup / "objects" / "documents" / "d1").write_bytes(b"a document")
    conversation = [
        base64.b64encode(b"slipway:memory:acme:{s1}").decode(),
        "string",
        -1,
        base64.b64encode(b"x").decode(),
    ]
    (backup / "sessions.jsonl").write_text(json.dumps([conversation]) + "\n")
    finish(backup, key_files)
    objects, redis = tmp_path / "objects", valkey_server.new_database()
    objects.mkdir()
    file = tmp_path / "servers.yaml"
    file.write_text(f"postgres: {server.url()}\nredis: {redis}\nobjects: {objects.as_uri()}\n")
    # What stands for dumps in this backup are none.
    said = restore("--servers", str(file))
    assert "pg_restore of slipway_gateway failed" in said
    assert said.index("… objects") < said.index("… sessions") < said.index("… databases")
    assert asyncio.run(names(server)) == []
    with Redis.from_url(redis) as client:
        assert client.keys("*") == []


def test_a_server_that_another_installation_uses_is_refused(
    restore: Callable[..., str], server: PostgresServer, tmp_path: Path
) -> None:
    file = tmp_path / "servers.yaml"
    file.write_text(f"postgres: {server.url()}\n")

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(server.url())
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute("CREATE ROLE slipway_memory"))
    try:
        said = restore("--servers", str(file))
        assert f"127.0.0.1:{server.port} has slipway_memory already, of another installation" in said
        assert asyncio.run(names(server)) == ["slipway_memory"]
    finally:
        asyncio.run(execute("DROP ROLE slipway_memory"))
