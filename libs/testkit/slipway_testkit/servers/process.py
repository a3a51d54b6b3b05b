"""A server process of the test session: started, waited for, killed, restarted and never left behind."""

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

# The kernel ties "signal me when my parent dies" to the thread that started the process, so all servers are
# started by one thread that lives as long as the interpreter. The signal covers a test session that is killed.
_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="testkit-launcher")


class ServerUnavailable(Exception):
    """A server that a test asked for is not installed or did not become ready; the message says why."""


# Below the ports that the kernel gives to connections and to servers that take any (from 32768): until a server listens
# on its port nobody takes it but another session that draws the same. The workers of a session have parts of their own.
_PART = 400
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 20
_ports = itertools.cycle(random.sample(range(10_000 + _WORKER * _PART, 10_000 + (_WORKER + 1) * _PART), _PART))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago. Whoever binds it must be ready to lose the race."""
    for port in itertools.islice(_ports, _PART):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerUnavailable("no port of 127.0.0.1 is free for a server")


def accepts_connections(port: int) -> bool:
    """Whether something accepts TCP connections on 127.0.0.1:`port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class ServerProcess:
    """One child process with its log file.

    `user`: account to run as, when the session is root's and the program refuses root. `stop_signal` asks for an
    orderly stop.
    """

    name: str
    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    _child: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Starts the process and waits until `ready()`; raises ServerUnavailable with the end of its log."""
        self._child = _launcher.submit(self._spawn).result()
        deadline = time.monotonic() + timeout
        while not ready():
            if self._child.poll() is not None:
                raise ServerUnavailable(f"{self.name} ended with {self._child.returncode}: {self._log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerUnavailable(f"{self.name} was not ready after {timeout:.0f} s: {self._log_tail()}")
            time.sleep(0.05)

    def stop(self, timeout: float = 30, *, crash: bool = False) -> None:
        """Orderly stop (`crash`: none), then SIGKILL for the whole process group."""
        if not crash and self._child is not None and self._child.poll() is None:
            self._child.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for the process and everything it started. Does nothing when it was never started."""
        if self._child is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._child = None

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int:
        """Process id; the process must have been started."""
        assert self._child is not None, f"{self.name} is not running"
        return self._child.pid

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [*_wrapper(self.user, self.stop_signal), *self.command]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env={**os.environ, **self.env},
                start_new_session=True,
            )

    def _log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:].strip() if self.log.exists() else "no log"


def _wrapper(user: str | None, parent_death_signal: signal.Signals) -> list[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        if user is not None:
            raise ServerUnavailable("setpriv (package util-linux) is needed to run a server as an ordinary user")
        return []
    return [*run_as(user), f"--pdeathsig={parent_death_signal.name.removeprefix('SIG')}", "--"]


def run_as(user: str | None) -> list[str]:
    """The beginning of a `setpriv` command line for `user` (None: the current one); `--` is left to the caller."""
    if user is None:
        return ["setpriv"]
    return ["setpriv", f"--reuid={user}", f"--regid={_group_of(user)}", "--clear-groups"]


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
