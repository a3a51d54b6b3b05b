"""The HTTP API over TLS by itself, where no ingress ends it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from slipway_chassis import tls
from slipway_chassis.tls import CertificateFiles, Certificates, TlsInvalid
from slipway_gateway.http.server import HttpServer, listen
from slipway_testkit.certificates import SERVER_ONLY, CertificateAuthority, Issued
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

authority = CertificateAuthority()


def issue(folder: Path, **options: Any) -> Issued:
    return authority.issue(folder, "127.0.0.1", uses=SERVER_ONLY, **options)


def certificates_in(issued: Issued) -> Certificates:
    return Certificates("http", CertificateFiles("SLIPWAY_GATEWAY_HTTP_TLS_", issued.certificate, issued.key))


@pytest.fixture
async def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Of the gateway's HTTP server, with a certificate for 127.0.0.1 in `tmp_path`."""
    monkeypatch.setattr(tls, "_LOOK_EVERY", 0.0)

    async def scheme(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.url.scheme)

    listener = listen("127.0.0.1:0")
    server = HttpServer(
        Starlette(routes=[Route("/scheme", scheme)]),
        listener,
        grace=1,
        stopping=asyncio.Event(),
        certificates=certificates_in(issue(tmp_path)),
    )
    running = asyncio.create_task(server.run())
    yield listener.getsockname()[1]
    running.cancel()
    await asyncio.wait([running])
    listener.close()


@pytest.fixture
def client() -> Callable[[], httpx.AsyncClient]:
    """A client that trusts the test's authority and nobody else."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    return lambda: httpx.AsyncClient(verify=context, trust_env=False, timeout=10)


async def test_requests_come_over_https_and_nothing_is_answered_in_plain_text(
    port: int, client: Callable[[], httpx.AsyncClient]
) -> None:
    async with client() as web:
        assert (await web.get(f"https://127.0.0.1:{port}/scheme")).text == "https"
        with pytest.raises(httpx.HTTPError):
            await web.get(f"http://127.0.0.1:{port}/scheme")


async def test_a_new_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    port: int, client: Callable[[], httpx.AsyncClient], tmp_path: Path
) -> None:
    async def shown(web: httpx.AsyncClient) -> int:
        async with web.stream("GET", f"https://127.0.0.1:{port}/scheme") as answer:
            connection = answer.extensions["network_stream"].get_extra_info("ssl_object")
            await answer.aread()
            return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True)).serial_number

    async with client() as before, client() as after:
        first = await shown(before)
        issued = issue(tmp_path)
        new = x509.load_pem_x509_certificate(issued.certificate.read_bytes()).serial_number
        assert await shown(after) == new
        assert await shown(before) == first != new


def test_a_key_of_another_certificate_is_told_by_its_setting(tmp_path: Path) -> None:
    issued, other = issue(tmp_path / "one"), issue(tmp_path / "other")
    with pytest.raises(TlsInvalid, match=r"SLIPWAY_GATEWAY_HTTP_TLS_KEY_FILE: .* is not the key of the certificate"):
        certificates_in(Issued(issued.certificate, other.key, issued.authority))
