"""A whole stack, started as a user starts it: by `slipway up`."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from slipway_cli import session
from slipway_cli.supervisor.data_dir import StackState, read_state
from slipway_cli.supervisor.ports import free_ports
from slipway_client import Client

SLIPWAY = Path(sys.executable).with_name("slipway")
START_SECONDS = 90


class Stack:
    """A running `slipway up`; of `SLIPWAY_*` in the environment only `settings` reach it."""

    def __init__(
        self,
        data_dir: Path,
        arguments: Sequence[str] = (),
        user: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        (self.port,) = free_ports(1)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}
        environment.update(settings or {})
        command = [str(SLIPWAY), "up", "--data-dir", str(data_dir), "--port", str(self.port), *arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, user=user, group=user
        )
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    def wait_for(self, pattern: str, seconds: float = START_SECONDS, start: int = 0) -> str:
        """The first line (from line `start` on) that matches."""
        found: list[str] = []

        def said() -> bool:
            found.extend(line for line in self.lines[start:] if re.search(pattern, line))
            return bool(found) or not self._reader.is_alive()

        with self._said:
            self._said.wait_for(said, seconds)
        if not found:
            pytest.fail(f"no line like {pattern!r} within {seconds} s:\n" + "\n".join(self.lines))
        return found[0]

    def ready(self) -> "Stack":
        """Waits until everything answers."""
        self.wait_for(r"ready\s+slipway")
        return self

    @property
    def state(self) -> StackState:
        state = read_state(self.data_dir)
        assert state is not None
        return state

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def pid(self, name: str) -> int:
        return next(record.pid for record in self.state.processes if record.name == name)

    def as_user(self, user: str) -> Client:
        return session.connect(self.data_dir, user)

    def stop(self) -> int:
        """Ends it as Ctrl-C does and answers with the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(10)
            assert self.process.stdout is not None
            self.process.stdout.close()
        return status
