"""`slipway doctor`: each thing that is wrong is told with what to do, and changes nothing."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from slipway_cli.checks.keys import check_keys
from slipway_cli.checks.stack import check_databases, check_gateway
from slipway_cli.main import app
from slipway_cli.supervisor.data_dir import DataDir
from slipway_cli.supervisor.postgres import PostgresServer, prepare
from slipway_testkit.scripted_server import ScriptedServer, answers
from slipway_testkit.servers.postgres import embedded_postgres
from typer.testing import CliRunner, Result

CONFIG = Path(__file__).parents[2] / "k8s"
Doctor = Callable[..., Result]


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the command for a data directory of its own, on a port that is free."""
    for name in list(os.environ):
        if name.startswith("SLIPWAY_"):
            monkeypatch.delenv(name)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(
            app, ["doctor", "--data-dir", str(tmp_path / "data"), "--port", str(port), "--json", *arguments]
        )

    return run


def told(result: Result) -> dict[str, tuple[str, str]]:
    """By subject: level, and text with remedy."""
    checks = json.loads(result.stdout)["checks"]
    return {check["subject"]: (check["level"], f"{check['text']}: {check['remedy']}") for check in checks}


def test_without_a_stack_it_checks_what_it_can_and_makes_nothing(doctor: Doctor, tmp_path: Path) -> None:
    result = doctor()
    found = told(result)
    assert {"disk", "port", "keys", "catalogue", "sandbox"} == found.keys()
    assert found["catalogue"][0] == found["port"][0] == found["keys"][0] == "ok"
    assert "models" in found["catalogue"][1]
    assert result.exit_code == {"ok": 0, "warn": 2, "fail": 1}[json.loads(result.stdout)["result"]]
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_a_wrong_catalogue_and_a_dead_server_are_told_at_once(doctor: Doctor, tmp_path: Path) -> None:
    config = tmp_path / "config"
    shutil.copytree(CONFIG, config)
    catalogue = config / "catalogue" / "models.yaml"
    catalogue.write_text(catalogue.read_text().replace("\nmodels:", "\nmodells:", 1))
    servers = tmp_path / "servers.yaml"
    with closing(socket.socket()) as listening, closing(socket.socket()) as closed:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        closed.bind(("127.0.0.1", 0))
        servers.write_text(f"redis: redis://:hidden@127.0.0.1:{closed.getsockname()[1]}/0\n")
        port = str(listening.getsockname()[1])
        result = doctor("--config", str(config), "--servers", str(servers), "--port", port)
    found = told(result)
    assert result.exit_code == 1
    assert found["port"][0] == found["catalogue"][0] == found["redis"][0] == "fail"
    assert f"{port} is in use" in found["port"][1]
    assert "models.yaml:" in found["catalogue"][1]
    assert "correct the key `redis`" in found["redis"][1]
    assert "hidden" not in result.stdout


def test_a_servers_file_that_is_wrong_ends_it_with_the_key(doctor: Doctor, tmp_path: Path) -> None:
    servers = tmp_path / "servers.yaml"
    servers.write_text("queue: amqp://x\n")
    result = doctor("--servers", str(servers))
    assert (result.exit_code, "unknown server 'queue'" in result.stderr) == (1, True)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with keys and secrets, as `slipway up` makes it."""
    directory = DataDir(tmp_path / "data")
    directory.acquire()
    directory.secrets()
    for name in ("gateway", "audit"):
        command = [sys.executable, "-m", f"slipway_{name}.keys", "init", str(directory.keys / name)]
        subprocess.run(command, check=True, capture_output=True)
    directory.release()
    return directory.path


def test_keys_are_right_until_they_are_gone_damaged_or_open_to_others(data_dir: Path) -> None:
    assert [finding.level for finding in check_keys(data_dir)] == ["ok"]
    (data_dir / "keys" / "gateway" / "signing.pem").write_text("damaged")
    (data_dir / "keys" / "gateway" / "jwks.json").unlink()
    (data_dir / "keys" / "audit" / "log.key").chmod(0o644)
    secrets = json.loads((data_dir / "secrets.json").read_text())
    secrets["data_keys"]["audit"] = "c2hvcnQ="
    (data_dir / "secrets.json").write_text(json.dumps(secrets))
    sentences = "\n".join(finding.sentence for finding in check_keys(data_dir))
    assert "signing.pem is no unencrypted PEM private key" in sentences
    assert "jwks.json cannot be read (No such file or directory): restore it from the backup" in sentences
    assert "log.key can be read by others: chmod 600" in sentences
    assert "has a data key of audit that is not 32 bytes" in sentences


def test_keys_that_do_not_belong_together_are_open_or_old_are_told_with_the_command(data_dir: Path) -> None:
    gateway, audit = data_dir / "keys" / "gateway", data_dir / "keys" / "audit"
    for file in (gateway / "signing.pem", audit / "log.key"):
        os.utime(file, (0, 0))
    old = check_keys(data_dir)
    assert [finding.level for finding in old] == ["warn", "warn"]
    assert f"rotate it: `python -m slipway_gateway.keys rotate {gateway}`" in old[0].sentence
    assert f"rotate it: `python -m slipway_audit.keys rotate {audit}`" in old[1].sentence
    for name in ("gateway", "audit"):
        command = [sys.executable, "-m", f"slipway_{name}.keys", "rotate", str(data_dir / "keys" / name)]
        subprocess.run(command, check=True, capture_output=True)
    assert [finding.level for finding in check_keys(data_dir)] == ["ok"]
    jwks, verifiers = gateway / "jwks.json", audit / "log.vkey"
    retired = [key for key in json.loads(jwks.read_text())["keys"] if "exp" in key]
    jwks.write_text(json.dumps({"keys": retired}))
    verifiers.write_text(verifiers.read_text().splitlines()[1] + "\n")
    sentences = "\n".join(finding.sentence for finding in check_keys(data_dir))
    assert f"{jwks} lacks the public part of signing.pem" in sentences
    assert f"{verifiers} lacks the public part of log.key" in sentences
    (data_dir / "tools-secrets.yaml").touch(mode=0o644)
    assert f"{data_dir / 'tools-secrets.yaml'} can be read by others: chmod 600" in "\n".join(
        finding.sentence for finding in check_keys(data_dir)
    )


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of its own: roles belong to all of it."""
    with embedded_postgres() as running:
        yield PostgresServer.at(running.url())


async def test_databases_that_are_not_made_yet_or_lack_migrations_are_told(
    server: PostgresServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = await check_databases(server.address, data_dir)
    assert (found.level, found.subject) == ("warn", "databases")
    await prepare(server, DataDir(data_dir).secrets())
    monkeypatch.setattr("slipway_cli.checks.stack._MOST_USED", 0.0)
    found, connections, *missing = await check_databases(server.address, data_dir)
    assert (found.level, found.subject) == ("ok", "clock")
    assert "connections are in use: raise max_connections" in connections.sentence
    assert len(missing) == 6
    assert all("migrations, first" in finding.text for finding in missing)
    assert urlsplit(server.address).username is None


async def test_what_a_gateway_goes_on_without_is_told_though_it_is_ready(gateway: ScriptedServer) -> None:
    gateway.then(answers({"status": "ready", "degraded": ["redis", "audit"]}))
    found = await check_gateway(gateway.url)
    assert (found[0].level, found[0].text) == ("warn", f"{gateway.url} works on without redis, audit")
