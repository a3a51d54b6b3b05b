"""What a process says of servers that its settings name wrongly: at once, by the setting, with the remedy."""

import secrets
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic_settings import SettingsConfigDict
from redis import Redis
from slipway_chassis.preflight import look_before_start
from slipway_chassis.schema import Schema
from slipway_chassis.settings import ServiceSettings
from slipway_chassis.unusable import SettingUnusable
from slipway_testkit.certificates import CertificateAuthority, Issued
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.servers.redis import RedisServer
from structlog.testing import capture_logs

SECRET = "s3cr3t-7f1c"
SCHEMA = Schema("shop", ("outbox",), extensions=("vector",))
Serve = Callable[[socket.socket], None]


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="SLIPWAY_SMALL_", frozen=True, extra="ignore")


def saying(answer: bytes) -> Serve:
    """Answers whatever comes first, and ends the connection."""

    def serve(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(answer)

    return serve


def silent(connection: socket.socket) -> None:
    """Takes the connection and never answers."""
    while connection.recv(1000):
        pass


def tls(issued: Issued, *, postgres: bool = False) -> Serve:
    """Begins TLS with this certificate, as far as it comes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)

    def serve(connection: socket.socket) -> None:
        if postgres:
            connection.recv(8)
            connection.sendall(b"S")
        context.wrap_socket(connection, server_side=True).close()

    return serve


def rewriting(port: int, old: bytes, new: bytes) -> Serve:
    """The server at `port`, with other bytes in its answers: an older release of it."""

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:

            def answers() -> None:
                with suppress(OSError):
                    while data := server.recv(65536):
                        connection.sendall(data.replace(old, new))

            thread = threading.Thread(target=answers)
            thread.start()
            while data := connection.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    return serve


@pytest.fixture(scope="module")
def listen() -> Iterator[Callable[[Serve], int]]:
    """Starts a server of one's own; answers with its port on 127.0.0.1."""
    with ExitStack() as servers:

        def start(serve: Serve) -> int:
            class Handler(socketserver.BaseRequestHandler):
                def handle(self) -> None:
                    with suppress(OSError):
                        serve(self.request)

            server = servers.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            servers.callback(server.shutdown)
            return int(server.server_address[1])

        yield start


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Issued]:
    folder = tmp_path_factory.mktemp("certificates")
    known, stranger = CertificateAuthority(), CertificateAuthority("stranger")
    day = timedelta(days=1)
    return {
        "stranger": stranger.issue(folder / "stranger", "127.0.0.1"),
        "ended": known.issue(folder / "ended", "127.0.0.1", begins=-3 * day, ends=-day),
        "elsewhere": known.issue(folder / "elsewhere", "elsewhere.example"),
        "good": known.issue(folder / "good", "127.0.0.1"),
    }


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service `shop` with a migration."""
    folder = tmp_path / "slipway_shop" / "migrations"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "0001_shop.sql").write_text("CREATE TABLE item (id int);")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slipway_shop", raising=False)


@pytest.fixture
def look(signing: Any, policy_dir: Path, data_key: str, database_url: str, valkey_url: str) -> Callable[..., Any]:
    """Looks with settings that are right but for those named."""

    async def looking(**changed: str) -> None:
        right: dict[str, Any] = {
            "database_url": database_url,
            "redis_url": valkey_url,
            "bus_url": valkey_url,
            "caller_jwks_file": signing.jwks_file,
            "identity_target": "127.0.0.1:1",
            "service_secret": "s",
            "policy_dir": policy_dir,
            "data_key": data_key,
        }
        settings = Settings(**{**right, **changed})
        await look_before_start(settings, SCHEMA, bus=settings.bus_url, redis=settings.redis_url, sessions=True)

    return looking


async def refused(look: Callable[..., Any], setting: str, value: str, says: str) -> str:
    """The sentence with which a value of a setting is refused."""
    with pytest.raises(SettingUnusable, match=rf"^SLIPWAY_SMALL_{setting.upper()}: .*{says}") as raised:
        await look(**{setting: value})
    assert SECRET not in str(raised.value)
    return str(raised.value)


@pytest.mark.servers
async def test_a_database_that_is_not_fit_is_refused_and_left_as_it_was(
    look: Callable[..., Any],
    listen: Callable[[Serve], int],
    certificates: dict[str, Issued],
    debian_postgres_server: PostgresServer,
) -> None:
    server = debian_postgres_server
    admin = await asyncpg.connect(server.url())
    names = [f"bad_{n}" for n in ("latin", "still", "foreign", "another", "plain", "few")]
    role = "bad_shopkeeper"
    for name in names:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.execute(
            f"CREATE DATABASE {name}" + (" ENCODING 'LATIN1' TEMPLATE template0" if "latin" in name else "")
        )
    await admin.execute(f"DROP ROLE IF EXISTS {role}")
    await admin.execute(f"CREATE ROLE {role} LOGIN")
    await admin.execute("ALTER DATABASE bad_still SET default_transaction_read_only = on")
    await admin.execute("ALTER DATABASE bad_few CONNECTION LIMIT 3")
    for name, statement in {
        "bad_foreign": "CREATE TABLE customer (id int)",
        "bad_another": "CREATE TABLE slipway_migration (name text, digest text);"
        " INSERT INTO slipway_migration VALUES ('chassis/outbox_0001.sql', 'x'), ('0001_log.sql', 'x')",
    }.items():
        connection = await asyncpg.connect(server.url(name))
        await connection.execute(statement)
        await connection.close()
    number = struct.pack(">i", await admin.fetchval("SELECT current_setting('server_version_num')::int"))
    older = listen(rewriting(server.port, number, struct.pack(">i", 130_010)))
    authority = certificates["good"].authority
    begin = {name: listen(tls(issued, postgres=True)) for name, issued in certificates.items()}

    def at(port: int, rest: str = "x") -> str:
        return f"postgresql://{role}:{SECRET}@127.0.0.1:{port}/{rest}"

    verified = f"x?sslmode=verify-full&sslrootcert={authority}"
    cases = {
        at(server.port, "nowhere"): "has no such database .*create it",
        f"postgresql://nobody:{SECRET}@127.0.0.1:{server.port}/bad_plain": "refuses the user or the password .*correct",
        at(older, "bad_plain"): "is PostgreSQL .*: use 15 or later",
        at(server.port, "bad_latin"): "encoding is LATIN1: create it anew with ENCODING 'UTF8'",
        at(server.port, "bad_still"): "takes no writes: switch default_transaction_read_only off",
        at(server.port, "bad_foreign"): r"tables that are not Slipway's \(customer\): name an empty one",
        server.url("bad_another"): r"another service's \(it has 0001_log.sql\): give each one of its own",
        at(server.port, "bad_another"): f"the role {role} may not write the table .*GRANT",
        at(server.port, "bad_plain"): f"the role {role} may not create tables: .*GRANT CREATE ON SCHEMA public",
        server.url("bad_plain"): "lacks the extension vector: install it there",
        at(server.port, "bad_few"): "the database's CONNECTION LIMIT leaves 3 connections, .*takes up to 10: raise it",
        at(server.port, "bad_plain?sslmode=require"): "demands TLS .*turn `ssl` on there",
        at(server.port, "bad_plain?sslmod=require"): "unrecognized .*sslmod.*correct the URL's parameters",
        at(begin["stranger"], verified): "certificate is not accepted .*sslrootcert names its authority",
        at(begin["ended"], verified): "certificate has expired: put a new one there",
        at(begin["elsewhere"], verified): "does not name the host of the URL",
        at(begin["good"], "x?sslmode=verify-full&sslrootcert=/nowhere/ca.crt"): "names /nowhere/ca.crt, which cannot",
        at(listen(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"))): "is no PostgreSQL: correct host and port",
    }
    for url, says in cases.items():
        await refused(look, "database_url", url, says)
    connection = await asyncpg.connect(server.url("bad_plain"))
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()
    for name in names:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.execute(f"DROP ROLE {role}")
    await admin.close()


@pytest.mark.servers
@pytest.mark.parametrize("setting", ["redis_url", "bus_url"])
async def test_a_redis_that_is_not_fit_is_refused(
    look: Callable[..., Any],
    listen: Callable[[Serve], int],
    certificates: dict[str, Issued],
    redis_server: RedisServer,
    setting: str,
) -> None:
    port = redis_server.port
    with Redis.from_url(redis_server.url) as admin:
        admin.execute_command(
            "ACL", "SETUSER", "bad_reader", "reset", "on", f">{SECRET}", "~*", "&*", "+@read", "+info"
        )
        before = admin.info("server")["redis_version"].encode()
    begin = {name: listen(tls(issued)) for name, issued in certificates.items()}
    web = listen(saying(b"HTTP/1.1 400 Bad Request\r\n"))
    older = listen(rewriting(port, b"redis_version:" + before[:3], b"redis_version:6.2"))
    authority = f"ssl_ca_certs={certificates['good'].authority}"
    cases = {
        f"redis://nobody:{SECRET}@127.0.0.1:{port}/0": "refuses the user or the password: correct them",
        f"redis://bad_reader:{SECRET}@127.0.0.1:{port}/0": "lacks a permission .*ACL SETUSER",
        f"redis://127.0.0.1:{port}/99999": "no such database .*correct the number",
        f"redis://127.0.0.1:{port}/0?sockettimeout=1": "parameter .*sockettimeout.*take it away",
        f"redis://127.0.0.1:{older}/0": r"is Redis 6\.2.*: use 7\.0 or later",
        f"redis://127.0.0.1:{web}/0": "is no Redis: correct host and port",
        f"rediss://127.0.0.1:{begin['stranger']}/0?{authority}": "not accepted .*ssl_ca_certs names its authority",
        f"rediss://127.0.0.1:{begin['ended']}/0?{authority}": "certificate has expired",
        f"rediss://127.0.0.1:{begin['elsewhere']}/0?{authority}": "does not name the host",
        f"rediss://127.0.0.1:{begin['good']}/0?ssl_ca_certs=/nowhere/ca.crt": "names /nowhere/ca.crt",
    }
    for url, says in cases.items():
        await refused(look, setting, url, says)
    with Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "DELUSER", "bad_reader")
        assert not admin.exists("slipway:start")


@pytest.mark.servers
async def test_a_rabbitmq_that_is_not_fit_is_refused(
    look: Callable[..., Any],
    listen: Callable[[Serve], int],
    certificates: dict[str, Issued],
    rabbitmq_server: RabbitServer,
) -> None:
    server, vhost = rabbitmq_server, f"bad{secrets.token_hex(4)}"
    reader, writer = f"{vhost}-reader", f"{vhost}-writer"
    # All in one call: each starts a node of Erlang.
    server.evaluate(
        f'rabbit_vhost:add(<<"{vhost}">>, <<"test">>),'
        f' lists:foreach(fun(User) -> rabbit_auth_backend_internal:add_user(User, <<"{SECRET}">>, <<"test">>) end,'
        f' [<<"{reader}">>, <<"{writer}">>]),'
        " lists:foreach(fun({User, Configure, Write}) ->"
        f' rabbit_auth_backend_internal:set_permissions(User, <<"{vhost}">>, Configure, Write, <<".*">>, <<"test">>)'
        f' end, [{{<<"{reader}">>, <<"^$">>, <<"^$">>}}, {{<<"{writer}">>, <<"^$">>, <<".*">>}},'
        ' {<<"guest">>, <<".*">>, <<".*">>}]).'
    )
    begin = {name: listen(tls(issued)) for name, issued in certificates.items()}
    authority = f"cafile={certificates['good'].authority}"

    def at(port: int, rest: str, user: str = "guest", password: str = SECRET) -> str:
        return f"amqp://{user}:{password}@127.0.0.1:{port}/{rest}"

    def with_tls(name: str) -> str:
        return f"amqps://guest:{SECRET}@127.0.0.1:{begin[name]}/?{authority}"

    cases = {
        at(server.port, ""): "refuses the user or the password: correct them",
        at(server.port, "nowhere", password="guest"): "virtual host: create it",
        at(server.port, "", reader): "virtual host: create it and set permissions",
        at(server.port, vhost, reader): "denies a permission .*rabbitmqctl set_permissions",
        at(server.port, vhost, writer): "denies a permission .*rabbitmqctl set_permissions",
        at(listen(rewriting(server.port, b"3.10.", b"3.07.")), vhost, password="guest"): "use 3.10 or later",
        at(listen(saying(b"HTTP/1.1 400 Bad Request\r\n")), ""): "is no RabbitMQ: correct host and port",
        f"amqps://guest:{SECRET}@127.0.0.1:{server.port}/": "demands TLS, .*amqp:// for amqps://",
        with_tls("stranger"): "not accepted .*cafile names its authority",
        with_tls("ended"): "certificate has expired",
        with_tls("elsewhere"): "does not name the host",
        f"amqps://127.0.0.1:{begin['good']}/?cafile=/nowhere/ca.crt": "names /nowhere/ca.crt",
    }
    for url, says in cases.items():
        await refused(look, "bus_url", url, says)
    await look(bus_url=at(server.port, vhost, password="guest"))
    assert server.exchanges(vhost) == []


async def test_a_bus_and_a_cache_that_do_not_answer_are_named_and_may_come_later(
    look: Callable[..., Any],
    listen: Callable[[Serve], int],
    monkeypatch: pytest.MonkeyPatch,
    free_port: Callable[[], int],
) -> None:
    monkeypatch.setattr("slipway_chassis.server_checks.redis.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("slipway_chassis.server_checks.rabbitmq.ANSWER_SECONDS", 0.2)
    hanging = listen(silent)
    cases = {
        f"redis://:{SECRET}@127.0.0.1:{free_port()}/0": "nobody listens there",
        f"redis://:{SECRET}@nowhere.invalid/0": "its host name is not known",
        f"redis://:{SECRET}@127.0.0.1:{hanging}/0": "no answer in time",
        f"amqp://u:{SECRET}@127.0.0.1:{free_port()}/": "nobody listens there",
        f"amqp://u:{SECRET}@nowhere.invalid/": "its host name is not known",
        f"amqp://u:{SECRET}@127.0.0.1:{hanging}/": "no answer in time",
    }
    for url, says in cases.items():
        with capture_logs() as logs:
            await look(bus_url=url)
        (line,) = [log for log in logs if log["event"] == "server.away"]
        assert line["setting"] == "SLIPWAY_SMALL_BUS_URL"
        assert says in line["reason"]
        assert "start it, or correct host and port" in line["reason"]
        assert SECRET not in str(logs)


async def test_a_database_that_does_not_come_ends_the_start_within_its_time(
    look: Callable[..., Any],
    listen: Callable[[Serve], int],
    monkeypatch: pytest.MonkeyPatch,
    free_port: Callable[[], int],
) -> None:
    monkeypatch.setattr("slipway_chassis.server_checks.database._PATIENCE", 0)
    monkeypatch.setattr("slipway_chassis.server_checks.postgres._SECONDS", 0.2)
    cases = {
        f"127.0.0.1:{free_port()}/x": "nobody listens there",
        "nowhere.invalid/x": "its host name is not known",
        f"127.0.0.1:{listen(silent)}/x": "no answer in time",
        f"127.0.0.1:{listen(saying(b''))}/x": "ends the connection without an answer",
    }
    for place, says in cases.items():
        said = await refused(look, "database_url", f"postgresql://u:{SECRET}@{place}", says)
        assert said.endswith("start it, or correct host and port")


async def test_all_that_is_wrong_is_told_at_once(look: Callable[..., Any], postgres_server: PostgresServer) -> None:
    with pytest.raises(SettingUnusable) as raised:
        await look(database_url=postgres_server.url("nowhere"), redis_url="redis://nobody:x@127.0.0.1:1/0?nonsense=1")
    assert "SLIPWAY_SMALL_DATABASE_URL: " in str(raised.value)
    assert "; SLIPWAY_SMALL_REDIS_URL: " in str(raised.value)


async def test_what_is_doubtful_is_logged(look: Callable[..., Any], valkey_server: RedisServer) -> None:
    with Redis.from_url(valkey_server.url) as admin:
        try:
            admin.config_set("maxmemory-policy", "allkeys-lru")
            with capture_logs() as logs:
                await look()
        finally:
            admin.config_set("maxmemory-policy", "noeviction")
    told = {log["setting"]: log["reason"] for log in logs if log["event"] == "server.doubtful"}
    assert set(told) == {"SLIPWAY_SMALL_BUS_URL", "SLIPWAY_SMALL_REDIS_URL"}
    assert all("set maxmemory-policy noeviction" in reason for reason in told.values())


async def test_a_variable_of_another_release_is_logged(
    look: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_SMALL_COMES_LATER", "1")
    with capture_logs() as logs:
        await look()
    assert [log["setting"] for log in logs if log["event"] == "setting.unknown"] == ["SLIPWAY_SMALL_COMES_LATER"]


async def test_files_and_addresses_are_looked_at_before_the_database(
    look: Callable[..., Any], tmp_path: Path, valkey_server: RedisServer
) -> None:
    wrong = {
        "policy_dir": (str(tmp_path / "none"), "none"),
        "caller_jwks_file": (__file__, "holds no public keys .*slipway_gateway.keys init"),
        "grpc_listen": (f"127.0.0.1:{valkey_server.port}", "cannot listen on .*in use.*: free it, or name another"),
        "metrics_listen": (f"127.0.0.1:{valkey_server.port}", "cannot listen on "),
        "link_listen": ("203.0.113.1:9", "cannot listen on "),
    }
    for setting, (value, says) in wrong.items():
        await refused(look, setting, value, says)
