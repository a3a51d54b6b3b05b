"""The service as a process, and its commands."""

import asyncio
import json
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from audit_testing.service import DATA_KEY
from audit_testing.writing import RUN, Writer
from slipway.audit.v1 import audit_pb2 as pb
from slipway.audit.v1 import audit_pb2_grpc
from slipway_chassis.bus import open_bus
from slipway_chassis.channel import connect, invoke, stream
from slipway_evidence.note import VerifierKey
from slipway_evidence.verify import verify
from slipway_testkit.warm import WarmProcess, WarmProgram

Wait = Callable[..., Any]


MakeKeys = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def make_keys(warm: Callable[[str], WarmProgram]) -> MakeKeys:
    """`python -m slipway_audit.keys init` in a folder, with further arguments."""
    program = warm("slipway_audit.keys")
    return lambda folder, *arguments: program.run("init", str(folder), *arguments, environment=os.environ)


@pytest.fixture
def environment(
    make_keys: MakeKeys, database_url: str, valkey_url: str, signing: Any, policy_dir: Path, tmp_path: Path
) -> dict[str, str]:
    assert make_keys(tmp_path / "keys", "--origin", "slipway.dev/test").returncode == 0
    settings = {
        "GRPC_LISTEN": "127.0.0.1:0",
        "METRICS_LISTEN": "127.0.0.1:0",
        "DATABASE_URL": database_url,
        "BUS_URL": valkey_url,
        "CALLER_JWKS_FILE": str(signing.jwks_file),
        "IDENTITY_TARGET": "127.0.0.1:1",
        "SERVICE_SECRET": "audits-own-secret",
        "POLICY_DIR": str(policy_dir),
        "DATA_KEY": DATA_KEY,
        "SIGNING_KEY_FILE": str(tmp_path / "keys" / "log.key"),
        "HEADS_DIR": str(tmp_path / "heads"),
    }
    return os.environ | {f"SLIPWAY_AUDIT_{name}": value for name, value in settings.items()}


@dataclass
class Running:
    process: WarmProcess
    grpc: int
    metrics: int

    def metric(self, name: str) -> float:
        with urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def program(warm: Callable[[str], WarmProgram]) -> WarmProgram:
    return warm("slipway_audit.main")


async def start(program: WarmProgram, environment: dict[str, str]) -> Running:
    process = await program.start(environment=environment)
    async with asyncio.timeout(30):
        async for line in process.stdout:
            if b'"service.ready"' in line:
                said = json.loads(line)
                return Running(process, said["grpc"], said["metrics"])
    raise AssertionError("the service ended before it was ready")


async def stop(running: Running, number: int = signal.SIGTERM) -> int:
    running.process.send_signal(number)
    async with asyncio.timeout(20):
        await running.process.stdout.read()
        return await running.process.wait()


@pytest.fixture
async def service(program: WarmProgram, environment: dict[str, str]) -> AsyncIterator[Running]:
    running = await start(program, environment)
    yield running
    if running.process.returncode is None:
        await stop(running, signal.SIGKILL)


async def publish(valkey_url: str, writer: Writer) -> None:
    bus = await open_bus(valkey_url)
    for one in writer.messages:
        await bus.publish(one)
    await bus.close()


async def evidence(running: Running, signing: Any, run_id: str) -> tuple[bytes, VerifierKey]:
    channel = connect(f"127.0.0.1:{running.grpc}")
    stub = audit_pb2_grpc.AuditServiceStub(channel)
    token = signing.token("carol", "acme", ["auditor"])
    head = await invoke(stub.GetCheckpoint, pb.GetCheckpointRequest(), token=token, timeout=10)
    request = pb.ExportRunEvidenceRequest(run_id=run_id)
    parts = [part.data async for part in stream(stub.ExportRunEvidence, request, token=token, timeout=10)]
    await channel.close()
    return b"".join(parts), VerifierKey.parse(head.verifier_key)


async def test_a_killed_service_goes_on_where_it_was_and_loses_and_repeats_nothing(
    service: Running,
    program: WarmProgram,
    environment: dict[str, str],
    valkey_url: str,
    signing: Any,
    tmp_path: Path,
    eventually: Wait,
) -> None:
    runs = [Writer(run_id=f"{RUN[:-1]}{letter}").run() for letter in "defghjkmnp"]
    for run in runs[:5]:
        await publish(valkey_url, run)
    assert await stop(service, signal.SIGKILL) == -signal.SIGKILL
    for run in runs[5:]:
        await publish(valkey_url, run)
    again = await start(program, environment)
    try:
        total = 7 * len(runs)
        # What the killed process held comes back when its lease has ended.
        await eventually(lambda: again.metric('slipway_audit_tree_size{tenant="acme"}') == total, timeout=40)
        await eventually(lambda: again.metric('slipway_audit_checkpoint_tree_size{tenant="acme"}') == total)
        for run in runs:
            data, key = await evidence(again, signing, run.run_id)
            report = verify(data, key)
            assert report.ok, report.finding
        assert again.metric("slipway_audit_dead_letters_total") == 0
        # What the killed process held may come again now.
        await eventually(lambda: again.metric("slipway_audit_events_waiting") == 0)
        assert again.metric("slipway_audit_lag_seconds_count") > 0
    finally:
        assert await stop(again) == 0
    public = VerifierKey.parse((tmp_path / "keys" / "log.vkey").read_text())
    assert public == key
    heads = (tmp_path / "heads" / "acme.heads.jsonl").read_text().splitlines()
    sizes = [int(json.loads(line)["note"].split("\n")[1]) for line in heads]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] >= total


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "SIGNING_KEY_FILE",
            "/nonexistent/log.key",
            "SLIPWAY_AUDIT_SIGNING_KEY_FILE: /nonexistent/log.key cannot be read",
        ),
        ("SIGNING_KEY_FILE", "/dev/null", "SLIPWAY_AUDIT_SIGNING_KEY_FILE: /dev/null"),
        ("HEADS_DIR", "/dev/null/heads", "SLIPWAY_AUDIT_HEADS_DIR: "),
        ("DATA_KEY", "short", "SLIPWAY_AUDIT_DATA_KEY must be base64 of 32 bytes"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(
    program: WarmProgram, environment: dict[str, str], variable: str, value: str, sentence: str
) -> None:
    ended = program.run(environment=environment | {f"SLIPWAY_AUDIT_{variable}": value})
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_keys_are_made_once_and_the_secret_one_is_private(make_keys: MakeKeys, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    first = make_keys(folder)
    assert first.returncode == 0
    secret = folder / "log.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["log.key", "log.vkey"]
    assert (folder / "log.vkey").read_text() == first.stdout
    before = secret.read_text()
    (folder / "log.vkey").unlink()
    assert make_keys(folder, "--origin", "slipway.dev/other").stdout == first.stdout
    assert secret.read_text() == before
    assert (folder / "log.vkey").read_text() == first.stdout


def test_a_key_that_others_can_read_or_that_is_none_is_refused_without_being_shown(
    make_keys: MakeKeys, tmp_path: Path
) -> None:
    folder = tmp_path / "keys"
    make_keys(folder)
    secret = folder / "log.key"
    secret.chmod(0o644)
    refused = make_keys(folder)
    assert (refused.returncode, "chmod 600" in refused.stderr) == (2, True)
    secret.write_text("PRIVATE+KEY+damaged")
    secret.chmod(0o600)
    refused = make_keys(folder)
    assert refused.returncode == 2
    assert "holds no signing key" in refused.stderr
    assert "damaged" not in refused.stderr
    assert make_keys(tmp_path / "new", "--origin", "two words").returncode == 2


def test_the_restore_command_continues_a_log_and_refuses_what_it_cannot(
    warm: Callable[[str], WarmProgram], environment: dict[str, str], tmp_path: Path
) -> None:
    head = tmp_path / "head"
    head.write_text("no note")
    for file in (head, tmp_path / "missing"):
        arguments = ("--tenant", "acme", "--head", str(file))
        ended = warm("slipway_audit.restore").run(*arguments, environment=environment)
        assert ended.returncode == 2
        assert str(file) in ended.stderr
        assert "Traceback" not in ended.stderr
