"""The commands against a gateway and an issuer that answer as they are told, in a data directory of their own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slipway_cli.main import app
from slipway_cli.supervisor.data_dir import DataDir, StackState
from slipway_testkit.scripted_server import ScriptedServer
from typer.testing import CliRunner, Result

Slipway = Callable[..., Result]


@pytest.fixture
def gateway() -> Iterator[ScriptedServer]:
    with ScriptedServer() as gateway:
        yield gateway


@pytest.fixture
def issuer() -> Iterator[ScriptedServer]:
    with ScriptedServer() as issuer:
        yield issuer


@pytest.fixture
def data_dir(gateway: ScriptedServer, issuer: ScriptedServer, tmp_path: Path) -> Path:
    """What a running stack leaves for other commands; the stack is this process."""
    directory = DataDir(tmp_path / "data")
    directory.path.mkdir()
    directory.save(StackState(os.getpid(), gateway.url, issuer.url, ready=True))
    return directory.path


@pytest.fixture
def slipway(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Slipway:
    """Runs a command with a token in the environment; `exit_code`, `stdout` and `stderr` tell what came of it."""
    for name in list(os.environ):
        if name.startswith("SLIPWAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLIPWAY_DATA_DIR", str(data_dir))
    monkeypatch.setenv("SLIPWAY_TOKEN", "a-token")

    def run(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(app, arguments, input=typed)

    return run
