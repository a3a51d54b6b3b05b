"""The life of a service process, tried on a real one."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import RemoteError
from slipway_testkit.signing import SigningAuthority

PROGRAM = Path(__file__).parent / "programs" / "small_service.py"
SECRET = "s3cret-of-the-service"
Eventually = Callable[..., Awaitable[Any]]


@dataclass
class Small:
    """The process, its folder and what it has logged."""

    process: asyncio.subprocess.Process
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    raw: list[str] = field(default_factory=list[str])

    async def logged(self, event: str) -> dict[str, Any]:
        """The next log line of that event."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while True:
                line = await self.process.stdout.readline()
                assert line, f"the process ended before {event}: {self.raw}"
                self.raw.append(line.decode())
                self.lines.append(json.loads(line))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]


def environment(folder: Path, signing: SigningAuthority, data_key: str) -> dict[str, str]:
    settings = {
        "DATABASE_URL": "postgresql://u:pg-password@127.0.0.1/none",
        "CALLER_JWKS_FILE": str(signing.jwks_file),
        "IDENTITY_TARGET": "127.0.0.1:1",
        "SERVICE_SECRET": SECRET,
        "POLICY_DIR": "/nowhere",
        "DATA_KEY": data_key,
        "FOLDER": str(folder),
        "SHUTDOWN_GRACE": "5",
    }
    return {**os.environ, **{f"SLIPWAY_SMALL_{name}": value for name, value in settings.items()}}


async def start(env: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@pytest.fixture
async def small(tmp_path: Path, signing: SigningAuthority, data_key: str) -> AsyncIterator[Small]:
    """The service, started; not ready until the folder holds `ready`."""
    process = await start(environment(tmp_path, signing, data_key))
    yield Small(process, tmp_path)
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_it_reports_ready_to_http_and_grpc_when_every_check_passes(small: Small) -> None:
    (small.folder / "cache-is-away").touch()
    started = await small.logged("service.started")
    health = health_pb2_grpc.HealthStub(channel := connect(f"127.0.0.1:{started['grpc']}"))
    request = health_pb2.HealthCheckRequest(service="slipway.audit.v1.AuditService")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{started['metrics']}") as ops:
        await small.logged("service.not_ready")
        not_ready = await ops.get("/readyz")
        assert not_ready.status_code == 503
        assert not_ready.json() == {
            "status": "not ready",
            "missing": {"store": "FileNotFoundError"},
            "degraded": {"cache": "ConnectionError"},
        }
        assert (await ops.get("/livez")).status_code == 200
        # Probes bring neither a token nor a deadline.
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        (small.folder / "ready").touch()
        ready = await small.logged("service.ready")
        assert (ready["grpc"], ready["metrics"]) == (started["grpc"], started["metrics"])
        # What is only watched is named, and keeps nobody from being ready.
        degraded = await ops.get("/readyz")
        assert degraded.status_code == 200
        assert degraded.json() == {"status": "degraded", "missing": {}, "degraded": {"cache": "ConnectionError"}}
        metrics = (await ops.get("/metrics")).text
        assert 'slipway_dependency_up{dependency="store"} 1.0' in metrics
        assert 'slipway_dependency_up{dependency="cache"} 0.0' in metrics
        for service in ("", "slipway.audit.v1.AuditService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await channel.close()


async def test_a_background_task_that_fails_is_started_again_and_counted(small: Small, eventually: Eventually) -> None:
    (small.folder / "ready").touch()
    ready = await small.logged("service.ready")
    runs = small.folder / "runs"
    await eventually(lambda: runs.exists() and len(runs.read_text()) == 3)
    async with httpx.AsyncClient() as ops:
        metrics = (await ops.get(f"http://127.0.0.1:{ready['metrics']}/metrics")).text
    assert 'slipway_background_restarts_total{task="flaky"} 2.0' in metrics
    assert "process_resident_memory_bytes" in metrics


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_calls_in_flight_end_and_takes_no_more(
    small: Small, signing: SigningAuthority, number: signal.Signals, eventually: Eventually
) -> None:
    (small.folder / "ready").touch()
    ready = await small.logged("service.ready")
    target = f"127.0.0.1:{ready['grpc']}"
    stub = audit_pb2_grpc.AuditServiceStub(channel := connect(target))
    request = audit_pb2.GetCheckpointRequest()
    in_flight = asyncio.create_task(invoke(stub.GetCheckpoint, request, token=signing.token(), timeout=20))
    await eventually((small.folder / "called").exists)
    # The background task runs, and is not between two attempts.
    await eventually(lambda: len((small.folder / "runs").read_text()) == 3)
    small.process.send_signal(number)
    await small.logged("service.stopping")

    async def refuses_new_calls() -> bool:
        async with grpc.aio.insecure_channel(target) as late:
            try:
                late_stub = audit_pb2_grpc.AuditServiceStub(late)
                await invoke(late_stub.GetCheckpoint, request, token=signing.token(), timeout=0.2)
            except RemoteError as error:
                return error.reason == "UNAVAILABLE"
        return False

    await eventually(refuses_new_calls)
    (small.folder / "go").touch()
    assert (await in_flight).note == "done"
    await channel.close()
    await small.logged("service.stopped")
    assert await asyncio.wait_for(small.process.wait(), 10) == 0
    assert (small.folder / "background-cancelled").exists()
    assert (small.folder / "stopped").exists()


async def test_a_call_that_outlasts_the_grace_does_not_hold_the_process(
    tmp_path: Path, signing: SigningAuthority, data_key: str, eventually: Eventually
) -> None:
    env = {**environment(tmp_path, signing, data_key), "SLIPWAY_SMALL_SHUTDOWN_GRACE": "0.2"}
    small = Small(await start(env), tmp_path)
    (tmp_path / "ready").touch()
    ready = await small.logged("service.ready")
    stub = audit_pb2_grpc.AuditServiceStub(channel := connect(f"127.0.0.1:{ready['grpc']}"))
    call = invoke(stub.GetCheckpoint, audit_pb2.GetCheckpointRequest(), token=signing.token(), timeout=60)
    in_flight = asyncio.create_task(call)
    await eventually((tmp_path / "called").exists)
    small.process.terminate()
    with pytest.raises(RemoteError):
        await asyncio.wait_for(in_flight, 10)
    assert await asyncio.wait_for(small.process.wait(), 10) == 0
    await small.process.communicate()
    await channel.close()


async def test_every_log_line_is_json_with_service_and_level_and_without_secrets(
    small: Small, data_key: str, eventually: Eventually
) -> None:
    (small.folder / "ready").touch()
    await small.logged("service.ready")
    await eventually(lambda: len((small.folder / "runs").read_text()) == 3)
    small.process.terminate()
    await small.logged("service.stopped")
    _, errors = await small.process.communicate()
    assert errors == b""
    for line in small.lines:
        assert line["service"] == "small"
        assert line["level"] in {"info", "warning", "error"}
        assert line["timestamp"].endswith("Z")
    failed = [line for line in small.lines if line["event"] == "background.failed"]
    assert "ValueError: not yet" in failed[0]["exception"]
    text = "".join(small.raw)
    assert not any(secret in text for secret in (SECRET, "pg-password", data_key))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"SERVICE_SECRET": None}, "slipway: SLIPWAY_SMALL_SERVICE_SECRET is not set\n"),
        ({"DATA_KEY": "c2hvcnQ="}, "slipway: SLIPWAY_SMALL_DATA_KEY must be base64 of 32 bytes\n"),
        ({"SERVICE_SECRET": " \n"}, "slipway: SLIPWAY_SMALL_SERVICE_SECRET is not set\n"),
        (
            {"SHUTDOWN_GRCAE": "1"},
            "slipway: SLIPWAY_SMALL_SHUTDOWN_GRCAE is no setting: is SLIPWAY_SMALL_SHUTDOWN_GRACE meant?\n",
        ),
        ({"SHUTDOWN_GRACE": "soon"}, "slipway: SLIPWAY_SMALL_SHUTDOWN_GRACE must be a valid number"),
    ],
    ids=str,
)
async def test_wrong_settings_end_it_with_one_sentence_that_names_the_variable(
    tmp_path: Path, signing: SigningAuthority, data_key: str, change: dict[str, str | None], sentence: str
) -> None:
    env = environment(tmp_path, signing, data_key)
    for name, value in change.items():
        if value is None:
            del env[f"SLIPWAY_SMALL_{name}"]
        else:
            env[f"SLIPWAY_SMALL_{name}"] = value
    process = await start(env)
    out, errors = await process.communicate()
    assert process.returncode == 2
    assert out == b""
    assert errors.decode().startswith(sentence)
    assert errors.count(b"\n") == 1
    assert SECRET not in errors.decode()


async def test_a_port_that_is_taken_ends_it_with_an_error(
    tmp_path: Path, signing: SigningAuthority, data_key: str, small: Small
) -> None:
    port = (await small.logged("service.started"))["grpc"]
    env = {**environment(tmp_path, signing, data_key), "SLIPWAY_SMALL_GRPC_LISTEN": f"127.0.0.1:{port}"}
    process = await start(env)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors.decode()
