"""The data directory: who uses it, its secrets, and the state that other commands read."""

import base64
import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slipway_cli.supervisor.refusal import StartRefusedError


@dataclass(frozen=True)
class ProcessRecord:
    """A process of the stack, identified beyond doubt: a pid alone may belong to somebody else by now."""

    name: str
    pid: int
    create_time: float


@dataclass
class StackState:
    """What a running stack tells other commands, in `state.json`."""

    pid: int
    url: str
    issuer: str
    ready: bool = False
    # Address of the PostgreSQL server, without user and password.
    postgres: str = ""
    # Address of the Redis or Valkey that keeps sessions, without user and password.
    redis: str = ""
    processes: list[ProcessRecord] = field(default_factory=list[ProcessRecord])


@dataclass(frozen=True)
class Secrets:
    """Secrets of one data directory, made at its first use and never shown."""

    postgres: str
    valkey: str
    local_models: str
    # Token of the example's ledger, which the tools service sends by reference.
    ledger: str
    # By service: database password, service-principal secret, and the key that wraps subject keys (base64, 32 bytes).
    databases: dict[str, str]
    services: dict[str, str]
    data_keys: dict[str, str]


SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")


class DataDir:
    """A folder that one stack at a time may use.

    Raises StartRefusedError when it cannot be written or another stack holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.logs = self.path / "logs"
        self.keys = self.path / "keys"
        self.state_file = self.path / "state.json"
        self._lock: int | None = None

    def acquire(self) -> None:
        """Makes the folder and takes its lock, which the kernel drops however this process ends."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.logs, self.keys):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartRefusedError(
                f"the data directory {self.path} cannot be written ({error.strerror}): "
                "give this user the right to write it, or choose another with --data-dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = read_state(self.path)
            who = f"process {holder.pid}" if holder else "another process"
            raise StartRefusedError(
                f"the data directory {self.path} is in use by {who}: stop that stack, or choose another with --data-dir"
            ) from None

    def release(self) -> None:
        """Forgets the running state and gives the folder back."""
        self.state_file.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secrets(self) -> Secrets:
        """Reads the secrets, or makes them at first use (file mode 0600)."""
        file = self.path / "secrets.json"
        if file.exists():
            return Secrets(**json.loads(file.read_text()))
        made = Secrets(
            postgres=secrets.token_urlsafe(24),
            valkey=secrets.token_urlsafe(24),
            local_models=secrets.token_urlsafe(24),
            ledger=secrets.token_urlsafe(24),
            databases={name: secrets.token_urlsafe(24) for name in SERVICES},
            services={name: secrets.token_urlsafe(32) for name in SERVICES},
            data_keys={name: base64.b64encode(secrets.token_bytes(32)).decode() for name in SERVICES},
        )
        write_private(file, json.dumps(asdict(made), indent=1))
        return made

    def save(self, state: StackState) -> None:
        """Writes the state that other commands read."""
        write_private(self.state_file, json.dumps(asdict(state), indent=1))

    def end_leftovers(self) -> list[str]:
        """Kills what a crashed supervisor of this folder left behind; answers with the names of what it killed."""
        import psutil

        state = read_state(self.path, running_only=False)
        ended: list[str] = []
        for record in state.processes if state else ():
            try:
                process = psutil.Process(record.pid)
                if abs(process.create_time() - record.create_time) > 1:
                    continue
                for each in (*process.children(recursive=True), process):
                    each.kill()
                process.wait(5)
                ended.append(record.name)
            except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                continue
        return ended


def read_state(path: Path, *, running_only: bool = True) -> StackState | None:
    """The state of the stack in `path`; None when there is none, or when its supervisor is gone."""
    import psutil

    try:
        raw: dict[str, Any] = json.loads((path / "state.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    state = StackState(**raw)
    state.processes = [ProcessRecord(**one) for one in raw["processes"]]
    if running_only and not psutil.pid_exists(state.pid):
        return None
    return state


def write_private(file: Path, text: str) -> None:
    """Writes a file that only this user reads, whole or not at all."""
    temporary = file.with_name(file.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    temporary.replace(file)
