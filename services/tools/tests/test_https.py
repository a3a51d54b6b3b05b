"""HTTPS: the certificate is the declared host's, although the connection goes to an address."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from slipway_chassis.secret_file import SecretFile
from slipway_tools.address import AllowList
from slipway_tools.declare import declare
from slipway_tools.http_tool import HttpCaller, HttpInvocation
from slipway_tools.tool import Declaration, HttpCall


def certificate(folder: Path, host: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{host}.pem", folder / f"{host}.key"
    cert_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return cert_file, key_file


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[int, list[str]]]:
    """A TLS server for `tool.example`, trusted by this process: its port and the names that clients asked for."""
    cert_file, key_file = certificate(tmp_path, "tool.example")
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    context.sni_callback = lambda _socket, name, _context: names.append(name)  # type: ignore[assignment]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert_file))

    async def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(2, 1, 6, "", (str(ipaddress.ip_address("127.0.0.1")), port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    yield listening.sockets[0].getsockname()[1], names
    listening.close()
    await listening.wait_closed()


def tool(url: str) -> Declaration:
    return declare(
        name="tls",
        description="",
        input_schema_json='{"type":"object"}',
        output_schema_json="",
        idempotent=True,
        regions=[],
        http=HttpCall("POST", url),
    )


async def test_the_certificate_is_checked_against_the_declared_host(server: tuple[int, list[str]]) -> None:
    port, names = server
    caller = HttpCaller(AllowList.parse([f"tool.example:{port}", f"other.example:{port}"]), SecretFile(None))
    answer = await caller.call(tool(f"https://tool.example:{port}/"), {}, HttpInvocation("acme", ""))
    assert answer.output_json == "{}"
    assert names == ["tool.example"]
    answer = await caller.call(tool(f"https://other.example:{port}/"), {}, HttpInvocation("acme", ""))
    assert answer.failure is not None
    assert answer.failure.code == "UNREACHABLE"
