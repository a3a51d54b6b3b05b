"""Servers that show certificates of an authority of one's own: PostgreSQL, Redis and RabbitMQ over TLS."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from slipway_chassis.bus import open_bus
from slipway_chassis.postgres import open_pool
from slipway_chassis.readiness import answers
from slipway_chassis.tls import TlsInvalid
from slipway_testkit.certificates import CertificateAuthority, Issued
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.waiting import eventually

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    """The servers' certificate, for 127.0.0.1."""
    return CertificateAuthority().issue(tmp_path_factory.mktemp("server"), "127.0.0.1")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that has signed nothing here."""
    return CertificateAuthority("stranger").issue(tmp_path_factory.mktemp("stranger"), "127.0.0.1").authority


@pytest.fixture
async def postgres(debian_postgres_server: PostgresServer, issued: Issued) -> AsyncIterator[str]:
    """URL of Debian's PostgreSQL with TLS on, which is turned off after the test."""
    folder = debian_postgres_server.folder / "data"
    owner = folder.stat()
    for name, source in (("server.crt", issued.certificate), ("server.key", issued.key)):
        shutil.copy(source, folder / name)
        os.chmod(folder / name, 0o600)
        os.chown(folder / name, owner.st_uid, owner.st_gid)
    url = debian_postgres_server.url()
    connection = await asyncpg.connect(url)

    async def turn(tls: str) -> None:
        await connection.execute(f"ALTER SYSTEM SET ssl = {tls}")
        await connection.execute("SELECT pg_reload_conf()")
        await eventually(lambda: has(tls), timeout=20)

    async def has(tls: str) -> bool:
        return await connection.fetchval("SHOW ssl") == tls

    await turn("on")
    yield url
    await turn("off")
    await connection.close()
    for name in ("server.crt", "server.key"):
        (folder / name).unlink()


async def test_the_database_is_reached_over_tls_with_its_authority(postgres: str, issued: Issued) -> None:
    pool = await open_pool(f"{postgres}?sslmode=verify-full&sslrootcert={issued.authority}")
    assert await pool.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") is True
    await pool.close()


async def test_a_database_whose_certificate_is_not_accepted_is_told_at_once(
    postgres: str, stranger: Path, tmp_path: Path
) -> None:
    text = tmp_path / "ca.crt"
    text.write_text("none")
    for file, sentence in (
        (stranger, r"DATABASE_URL: the server's certificate is not accepted .*: sslrootcert names its authority"),
        (tmp_path / "gone.crt", r"DATABASE_URL: sslrootcert names .*gone\.crt, which is no file that can be read"),
        (text, "DATABASE_URL: sslrootcert holds no certificate in PEM"),
    ):
        with pytest.raises(TlsInvalid, match=sentence):
            await open_pool(f"{postgres}?sslmode=verify-full&sslrootcert={file}")


async def test_a_database_without_tls_is_told_when_the_url_demands_it(
    debian_postgres_server: PostgresServer, issued: Issued
) -> None:
    url = f"{debian_postgres_server.url()}?sslmode=verify-full&sslrootcert={issued.authority}"
    with pytest.raises(TlsInvalid, match=r"DATABASE_URL: it demands TLS .* turn `ssl` on there"):
        await open_pool(url)


@pytest.fixture
async def redis_port(redis_server: RedisServer, issued: Issued, free_port: Callable[[], int]) -> AsyncIterator[int]:
    """Port on which the session's Redis takes TLS, closed after the test."""
    port = free_port()
    async with Redis.from_url(redis_server.url) as client:
        settings: dict[str, Any] = {
            "tls-cert-file": str(issued.certificate),
            "tls-key-file": str(issued.key),
            "tls-ca-cert-file": str(issued.authority),
            "tls-auth-clients": "no",
            "tls-port": str(port),
        }
        await client.config_set(*[part for pair in settings.items() for part in pair])
        yield port
        await client.config_set("tls-port", "0")


async def test_the_bus_and_the_cache_are_reached_on_redis_over_tls(redis_port: int, issued: Issued) -> None:
    url = f"rediss://127.0.0.1:{redis_port}/0?ssl_ca_certs={issued.authority}"
    async with Redis.from_url(url) as client:
        assert await client.execute_command("PING")
    bus = await open_bus(url)
    await bus.ping()
    await bus.close()


@pytest.fixture
def rabbitmq_port(rabbitmq_server: RabbitServer, issued: Issued, free_port: Callable[[], int]) -> int:
    """Port on which the session's RabbitMQ takes TLS, too."""
    port = free_port()
    files = f'{{cacertfile,"{issued.authority}"}},{{certfile,"{issued.certificate}"}},{{keyfile,"{issued.key}"}}'
    rabbitmq_server.evaluate(f"rabbit_networking:start_ssl_listener({port}, [{files}], 2).")
    return port


async def test_the_bus_is_reached_on_rabbitmq_over_tls(rabbitmq_port: int, issued: Issued) -> None:
    bus = await open_bus(f"amqps://guest:guest@127.0.0.1:{rabbitmq_port}/?cafile={issued.authority}")
    await bus.ping()
    await bus.close()


async def test_readiness_says_what_is_wrong_with_a_servers_certificate(
    redis_port: int, rabbitmq_port: int, stranger: Path
) -> None:
    urls = {
        "redis": f"rediss://127.0.0.1:{redis_port}/0?ssl_ca_certs={stranger}",
        "rabbitmq": f"amqps://guest:guest@127.0.0.1:{rabbitmq_port}/?cafile={stranger}",
    }
    buses = {name: await open_bus(url) for name, url in urls.items()}
    told = await answers({name: bus.ping for name, bus in buses.items()})
    assert set(told) == set(urls)
    for said in told.values():
        assert "(TLS: " in said
        assert "127.0.0.1" not in said
    await asyncio.gather(*(bus.close() for bus in buses.values()))
