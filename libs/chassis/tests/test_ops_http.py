"""The operations port, also towards clients that do not behave."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from slipway_chassis import ops_http
from slipway_chassis.ops_http import OpsServer


@pytest.fixture
async def port(missing: dict[str, str], degraded: dict[str, str]) -> AsyncIterator[int]:
    server = OpsServer(lambda: missing, lambda: degraded)
    yield await server.start("127.0.0.1", 0)
    await server.close()


@pytest.fixture
def missing() -> dict[str, str]:
    return {}


@pytest.fixture
def degraded() -> dict[str, str]:
    return {}


async def exchange(port: int, sent: bytes) -> bytes:
    """What the server answers to raw bytes, until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_readyz_names_what_is_missing(port: int, missing: dict[str, str], degraded: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/readyz")).json() == {"status": "ok", "missing": {}, "degraded": {}}
        degraded["bus"] = "Unavailable"
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "degraded", "missing": {}, "degraded": {"bus": "Unavailable"}}
        missing["postgres"] = "ConnectionRefusedError"
        answer = await client.get("/readyz?verbose=1")
        assert answer.status_code == 503
        assert answer.json()["missing"] == {"postgres": "ConnectionRefusedError"}
        # Others' health is no reason to be killed.
        assert (await client.get("/livez")).status_code == 200


async def test_metrics_are_in_the_prometheus_format(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE slipway_grpc_server_requests_total counter" in answer.text


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405"),
        (b"\r\n\r\n", b"HTTP/1.1 405"),
        (b"\xff\xfe\x00 \xff\r\n\r\n", b"HTTP/1.1 405"),
        (b"GET /livez HTTP/1.1\r\n" + b"x: " + b"y" * 100_000, b""),
    ],
    ids=["unknown path", "wrong method", "empty", "binary", "endless head"],
)
async def test_odd_requests_are_refused(port: int, sent: bytes, status: bytes) -> None:
    answer = await exchange(port, sent)
    assert answer.startswith(status)
    assert status or answer == b""


async def test_a_client_that_never_finishes_its_request_is_dropped(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_http, "_TIMEOUT", 0.1)
    assert await exchange(port, b"GET /livez HTTP/1.1\r\n") == b""
