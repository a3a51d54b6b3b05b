"""The gateway and its development issuer as real processes, and their environment."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from slipway_testkit.warm import WarmProgram

GATEWAY = "slipway_gateway.main"
ISSUER = "slipway_gateway.dev_issuer.__main__"


class ProcessFailedError(AssertionError):
    """A process under test ended or never got ready."""


class Process:
    """A child process whose output is kept; `stop` ends it."""

    def __init__(self, program: WarmProgram, env: dict[str, str]) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}
        self._process = program.popen(environment=clean | env)
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()

    def wait_for(self, pattern: str, timeout: float = 40) -> re.Match[str]:
        """Waits until a line matches."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for line in self._lines:
                    if match := re.search(pattern, line):
                        return match
                left = deadline - time.monotonic()
                if left <= 0 or (self.has_ended and left < timeout - 1):
                    self._process.kill()
                    raise ProcessFailedError(f"no {pattern!r} in:\n{''.join(self._lines)}")
                self._changed.wait(min(left, 0.2))

    def wait(self, timeout: float = 60) -> int:
        code = self._process.wait(timeout)
        self._close()
        return code

    def _close(self) -> None:
        self._reader.join(5)
        self._process.stdout.close()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self.wait(5)


Launch = Callable[[str, dict[str, str]], Process]
"""Starts a module (GATEWAY, ISSUER) with settings."""


def issuer_env(listen: str, realm_file: Path, key_dir: Path) -> dict[str, str]:
    return {
        "SLIPWAY_DEV_ISSUER_LISTEN": listen,
        "SLIPWAY_DEV_ISSUER_REALM_FILE": str(realm_file),
        "SLIPWAY_DEV_ISSUER_KEY_DIR": str(key_dir),
    }


def wait_for_http(process: Process, url: str, timeout: float = 40) -> None:
    """Waits until an address answers 200."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline or process.has_ended:
            process.stop()
            raise ProcessFailedError(f"{url} does not answer:\n{process.output}")
        time.sleep(0.05)
