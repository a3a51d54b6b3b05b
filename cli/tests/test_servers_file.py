"""The servers' file: what is wrong in it, or with a server that it names, is told before anything is started."""

import json
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis
from slipway_cli.checks.finding import least
from slipway_cli.checks.identity import Identity, skew
from slipway_cli.supervisor.refusal import StartRefusedError
from slipway_cli.supervisor.servers_file import RealServers, read_servers
from slipway_testkit.scripted_server import ScriptedServer
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.redis import valkey
from slipway_testkit.servers.versitygw import S3Server

IDENTITY = "identity: {issuer: 'https://id.example/realms/slipway', client_secret: hidden"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bus: http://x", "bus must be a URL that starts with one of amqp://"),
        ("bus: amqp://u:p@[x/", "bus is no URL: write special characters"),
        ("redis: redis://:hidden@h:port/0", "redis is no URL"),
        ("queue: amqp://x", "unknown server 'queue'"),
        ("- a\n- b", "must map server names to URLs"),
        ("bus: [hidden", r"it is no YAML \(line"),
        ("vectors: weaviate://h:8080", "vectors must be weaviate://.*grpc_port=N"),
        ("objects: http://bucket", "objects must be a URL that starts with one of s3://, file://"),
        ("identity: https://id.example", "identity must hold issuer and client_secret"),
        ("identity: {issuer: 'https://id.example/realms/slipway'}", "identity lacks client_secret"),
        (IDENTITY + ", realm: x}", "identity has an unknown part 'realm'"),
        (IDENTITY + ", clients: slipway-cli}", "identity must name clients as a list"),
        (IDENTITY + ", audience: []}", "identity must name audience as a list"),
        (
            IDENTITY + ", claims: {role: x}}",
            "identity has an unknown part 'role' in its claims; known are",
        ),
        (IDENTITY + ", directory: {groups: 1}}", "identity must map names to text in its directory"),
        (IDENTITY.replace("slipway'", "slipway/'") + "}", "exactly as in tokens, without a slash"),
        (IDENTITY.replace("https", "http") + "}", "must have an https issuer"),
        (IDENTITY + ", ca_file: /nowhere.pem}", "ca_file /nowhere.pem that is not there"),
    ],
)
def test_a_wrong_servers_file_is_refused_by_key_without_its_secrets(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "servers.yaml"
    file.write_text(text)
    with pytest.raises(StartRefusedError, match=complaint) as refused:
        read_servers(file)
    assert "hidden" not in str(refused.value)


def test_a_realm_with_names_of_its_own_is_read(tmp_path: Path) -> None:
    file = tmp_path / "servers.yaml"
    text = IDENTITY + ", audience: [a, b], claims: {tenant: org}, directory: {tenant_attribute: org, groups: path}}"
    file.write_text(text.replace("slipway'", "My%20Realm'"))
    identity = read_servers(file).identity
    assert identity is not None
    assert (identity.audience, identity.claims) == (("a", "b"), {"tenant": "org"})
    assert identity.directory_url == (
        "keycloak+https://id.example/realms/My%20Realm?client_id=slipway-gateway&tenant_attribute=org&groups=path"
    )


@pytest.mark.parametrize("key", ["postgres", "redis", "bus", "vectors", "objects"])
async def test_a_server_that_is_not_there_is_refused_at_once_without_its_password(key: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        url = {
            "postgres": f"postgresql://user:hidden@{place}/postgres",
            "redis": f"redis://user:hidden@{place}/0",
            "bus": f"amqp://user:hidden@{place}/",
            "vectors": f"weaviate://hidden@{place}?grpc_port=1",
            "objects": f"s3://user:hidden@bucket?endpoint=http://{place}&region=x",
        }[key]
        with pytest.raises(StartRefusedError, match=f"{key}: .*correct the key `{key}`") as refused:
            await RealServers(**{key: url}).refuse_unusable()
    assert "hidden" not in str(refused.value)


async def test_servers_that_can_be_used_are_told_with_their_versions(postgres_url: str, valkey_url: str) -> None:
    found = await RealServers(postgres=postgres_url, redis=valkey_url, bus=valkey_url).refuse_unusable()
    assert [finding.subject for finding in found] == ["postgres", "redis", "bus"]
    assert found[0].text.startswith("PostgreSQL 18.")
    assert found[1].text.startswith("Valkey 9.")


async def test_wrong_passwords_and_missing_rights_are_told_by_key(
    postgres_server: PostgresServer, valkey_url: str
) -> None:
    address = urlsplit(postgres_server.url())
    admin = await asyncpg.connect(postgres_server.url())
    try:
        await admin.execute("CREATE ROLE nothing_much LOGIN PASSWORD 'x'")
        powerless = address._replace(netloc="nothing_much:x@" + address.netloc.rpartition("@")[2]).geturl()
        port = urlsplit(valkey_url).port
        servers = RealServers(postgres=powerless, redis=f"redis://nobody:wrong@127.0.0.1:{port}/0")
        with pytest.raises(StartRefusedError) as refused:
            await servers.refuse_unusable()
    finally:
        await admin.execute("DROP ROLE nothing_much")
        await admin.close()
    assert "may not make databases and roles: name a superuser in the key `postgres`" in str(refused.value)
    assert "refuses the user or the password" in str(refused.value)
    assert "wrong" not in str(refused.value)


async def test_servers_that_take_no_writes_are_told_by_key(database_url: str, postgres_server: PostgresServer) -> None:
    admin = await asyncpg.connect(postgres_server.url())
    await admin.execute(f"ALTER DATABASE {urlsplit(database_url).path[1:]} SET default_transaction_read_only = on")
    await admin.close()
    with valkey() as replica:
        async with Redis.from_url(replica.url) as client:
            await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        found = await RealServers(postgres=database_url, redis=replica.url, bus=replica.url).check()
    assert [finding.level for finding in found] == ["fail"] * 3
    assert "is set to take no writes (default_transaction_read_only): switch that off" in found[0].sentence
    assert "is a replica and takes no writes: name its primary in the key `redis`" in found[1].sentence
    assert "name its primary in the key `bus`" in found[2].sentence


async def test_a_postgresql_without_pgvector_is_refused_with_the_package_to_install(debian_postgres_url: str) -> None:
    found = await RealServers(postgres=debian_postgres_url).check()
    if any(finding.level == "ok" for finding in found):
        pytest.skip("this PostgreSQL has pgvector")
    assert "install its extension `vector` there (Debian: postgresql-" in found[-1].sentence


@pytest.mark.servers
async def test_rabbitmq_is_taken_and_a_wrong_password_or_virtual_host_is_not(rabbitmq_url: str) -> None:
    (found,) = await RealServers(bus=rabbitmq_url).check()
    assert (found.level, found.text.split()[0]) == ("ok", "RabbitMQ")
    address = urlsplit(rabbitmq_url)
    stranger = address._replace(netloc=f"nobody:hidden@{address.hostname}:{address.port}").geturl()
    (found,) = await RealServers(bus=stranger).check()
    assert "refuses the user or the password" in found.sentence
    (found,) = await RealServers(bus=address._replace(path="/nowhere").geturl()).check()
    assert "correct the end of the URL in the key `bus`" in found.sentence


@pytest.mark.servers
async def test_a_bucket_is_taken_and_wrong_keys_or_a_missing_bucket_are_not(s3_server: S3Server) -> None:
    bucket = s3_server.create_bucket()
    (found,) = await RealServers(objects=s3_server.url(bucket)).check()
    assert found.level == "ok"
    for url in (s3_server.url(bucket, secret_key="another"), s3_server.url("no-such-bucket")):
        (found,) = await RealServers(objects=url).check()
        assert (found.level, found.subject) == ("fail", "objects")
        assert s3_server.secret_key not in found.sentence


def answer(body: object, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        content = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return send


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (answer({"version": "1.31.9"}), "is Weaviate 1.31.9: use version 1.32 or later"),
        (answer({}, 401), "refuses the key: write an API key"),
        (answer({"hello": "world"}), "is no Weaviate: correct the key `vectors`"),
    ],
)
async def test_a_weaviate_that_is_too_old_or_refuses_the_key_is_told(
    said: Callable[[BaseHTTPRequestHandler], None], complaint: str
) -> None:
    with ScriptedServer() as server:
        server.then(said)
        place = urlsplit(server.url).netloc
        (found,) = await RealServers(vectors=f"weaviate://hidden@{place}?grpc_port=1").check()
        assert server.asked[0].headers["authorization"] == "Bearer hidden"
    assert complaint in found.sentence
    assert "hidden" not in found.sentence


@pytest.mark.parametrize(
    ("named", "keys", "token", "complaint"),
    [
        ("http://elsewhere/realms/slipway", [1], 200, "calls itself http://elsewhere/realms/slipway: write that as"),
        ("", [], 200, "has no signing keys"),
        ("", [1], 401, "refuses the client slipway-gateway: correct client_id and client_secret"),
        ("", [1], 200, ""),
    ],
)
async def test_an_identity_provider_is_taken_when_it_names_itself_has_keys_and_knows_the_client(
    named: str, keys: list[int], token: int, complaint: str
) -> None:
    with ScriptedServer() as server:
        issuer = f"{server.url}/realms/slipway"
        about = {"issuer": named or issuer, "jwks_uri": f"{issuer}/certs", "token_endpoint": f"{issuer}/token"}
        server.then(answer(about), answer({"keys": keys}), answer({}, token))
        (found,) = await RealServers(identity=Identity(issuer, "hidden")).check()
    assert found.level == ("fail" if complaint else "ok")
    assert complaint in found.sentence
    assert "hidden" not in found.sentence


async def test_a_realm_that_is_not_there_is_told() -> None:
    with ScriptedServer() as server:
        server.then(answer({"error": "Realm does not exist"}, 404))
        (found,) = await RealServers(identity=Identity(f"{server.url}/realms/nowhere", "hidden")).check()
    assert "is no realm there: correct the issuer in `identity`" in found.sentence


def test_a_clock_that_differs_by_more_than_the_gateway_forgives_is_told() -> None:
    assert skew("identity", formatdate(time.time(), usegmt=True)) == []
    (found,) = skew("identity", formatdate(time.time() - 60, usegmt=True))
    assert "synchronise both clocks" in found.sentence


def test_versions_compare_by_their_numbers() -> None:
    assert least("3.10.8", (3, 10))
    assert least("15.4 (Debian 15.4-1)", (15,))
    assert not least("1.9.0-rc.1", (1, 32))
    assert not least("", (1,))
