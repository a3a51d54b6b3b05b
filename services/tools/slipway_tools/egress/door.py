"""The doors of sandboxes: for each sandbox with a network, a folder with the proxy's socket and certificate."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import structlog

from slipway_tools.egress.call import EgressCall

log = structlog.get_logger(__name__)
_PREFIX = "slipway-egress-"
_CONNECTIONS = 64  # of one sandbox at a time: each takes a descriptor of this process
Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter, "Door"], Awaitable[None]]


class Door:
    """A Unix socket that is mounted into one sandbox. Who comes through is served for the call that runs, if any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.call: EgressCall | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, home: Path, certificate: bytes, handle: Handle) -> "Door":
        """Make the folder and listen."""
        folder = _furnish(home, certificate)
        door = cls(folder)

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101
            if len(door._tasks) >= _CONNECTIONS:
                writer.close()
                return
            door._tasks.add(task)
            try:
                await handle(reader, writer, door)
            finally:
                door._tasks.discard(task)
                writer.close()

        socket = folder / "proxy.sock"
        door._server = await asyncio.start_unix_server(accepted, socket, limit=1 << 16)
        os.chmod(socket, 0o666)  # noqa: S103 - the sandbox's user connects to it
        return door

    @contextlib.contextmanager
    def serving(self, call: EgressCall) -> Generator[None]:
        """Serve `call` within the block; connections that are still open at its end are cut."""
        self.call = call
        try:
            yield
        finally:
            self.call = None
            for task in self._tasks:
                task.cancel()

    def close(self) -> None:
        """Stop listening, and remove the folder."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)


def _furnish(home: Path, certificate: bytes) -> Path:
    folder = Path(tempfile.mkdtemp(dir=home))
    folder.chmod(0o755)
    (folder / "ca.pem").write_bytes(certificate)
    (folder / "ca.pem").chmod(0o644)
    return folder


def make_home() -> Path:
    """The folder of this process's doors; what dead processes left is removed.

    It lies in the folder for temporary files: a sandbox's user must reach it, and paths of sockets are short.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = old.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                if old.stat().st_uid == os.geteuid():
                    shutil.rmtree(old)
    home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    home.chmod(0o711)
    return home
