"""Pytest plugin: fixtures over real servers, usable from every tests folder.

Servers from wheels (PostgreSQL, Valkey) are always there. Those that `make servers` installs (RabbitMQ, Redis and
PostgreSQL from Debian, versitygw, Weaviate) skip the test with a reason when they are missing, and fail it under
SLIPWAY_REQUIRE_SERVERS=1.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from slipway_testkit import pods
from slipway_testkit.pods import NoCluster, SandboxPods
from slipway_testkit.servers import keycloak, postgres, programs, rabbitmq, redis, versitygw, weaviate
from slipway_testkit.servers.keycloak import KeycloakServer
from slipway_testkit.servers.postgres import PostgresServer
from slipway_testkit.servers.process import ServerUnavailable
from slipway_testkit.servers.process import free_port as _free_port
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.servers.versitygw import S3Server
from slipway_testkit.servers.weaviate import WeaviateServer
from slipway_testkit.signing import SigningAuthority
from slipway_testkit.waiting import eventually as _eventually
from slipway_testkit.warm import WarmProgram, warm_program

S = TypeVar("S")


@contextmanager
def required_or_skipped(server: AbstractContextManager[S]) -> Generator[S]:
    """Enters `server`; one that is unavailable skips the test, or fails it under SLIPWAY_REQUIRE_SERVERS=1."""
    try:
        running = server.__enter__()
    except ServerUnavailable as error:
        _fail_or_skip(error)
    try:
        yield running
    finally:
        server.__exit__(None, None, None)


def _fail_or_skip(error: ServerUnavailable) -> NoReturn:
    if os.environ.get("SLIPWAY_REQUIRE_SERVERS") == "1":
        pytest.fail(f"SLIPWAY_REQUIRE_SERVERS=1: {error}", pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="session")
def warm() -> Iterator[Callable[[str], WarmProgram]]:
    """`warm("slipway_router.main").popen(environment=…)`: processes of a module that the session imports once."""
    with ExitStack() as programs:

        @cache
        def program(module: str) -> WarmProgram:
            return programs.enter_context(warm_program(module))

        yield program


@pytest.fixture(scope="session")
def installed_program() -> Callable[[str], Path]:
    """Finds a program that `make servers` installs (`runsc`, `helm`); one that is missing is a missing server."""

    def find(name: str) -> Path:
        try:
            return programs.program(name)
        except ServerUnavailable as error:
            _fail_or_skip(error)

    return find


@pytest.fixture(scope="session")
def sandbox_pods() -> Iterator[SandboxPods]:
    """A namespace of the cluster that SLIPWAY_TEST_KUBECONFIG names; without one the test is skipped, always."""
    try:
        with pods.namespace() as given:
            yield given
    except NoCluster as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's embedded PostgreSQL 18 with pgvector; with SLIPWAY_TEST_POSTGRES=debian that of the distribution.

    So every suite can be run on either; the one of the memory service needs pgvector, which Debian 12 does not have.
    """
    debian = os.environ.get("SLIPWAY_TEST_POSTGRES") == "debian"
    with required_or_skipped(postgres.debian_postgres() if debian else postgres.embedded_postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of the embedded server's maintenance database; tests take `database_url`."""
    return postgres_server.url()


@pytest.fixture(scope="session")
def new_database(postgres_server: PostgresServer) -> Callable[[], str]:
    """Creates an empty database in the embedded server per call and returns its URL, for wider scopes."""
    return postgres_server.create_database


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh empty database for this test, dropped after it."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def debian_postgres_server() -> Iterator[PostgresServer]:
    """Debian's PostgreSQL over TCP: the production profile's kind."""
    with required_or_skipped(postgres.debian_postgres()) as server:
        yield server


@pytest.fixture(scope="session")
def debian_postgres_url(debian_postgres_server: PostgresServer) -> str:
    """URL of the maintenance database of Debian's PostgreSQL."""
    return debian_postgres_server.url()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """The session's Valkey from the wheel."""
    with redis.valkey() as server:
        yield server


@pytest.fixture(scope="session")
def valkey_url(valkey_server: RedisServer) -> str:
    """URL of the session's Valkey; shared by all tests: use namespaces."""
    return valkey_server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The session's Redis from Debian."""
    with required_or_skipped(redis.debian_redis()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(redis_server: RedisServer) -> str:
    """URL of the session's Redis; shared by all tests: use namespaces."""
    return redis_server.url


@pytest.fixture(scope="session", params=["valkey", pytest.param("redis", marks=pytest.mark.servers)])
def cache_url(request: pytest.FixtureRequest) -> str:
    """URL of a cache, once per kind: what runs on Valkey runs on Redis."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """The session's RabbitMQ from Debian."""
    with required_or_skipped(rabbitmq.debian_rabbitmq()) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq_server: RabbitServer) -> str:
    """URL of the session's RabbitMQ; shared by all tests: use namespaces."""
    return rabbitmq_server.url


@pytest.fixture(scope="session")
def weaviate_server() -> Iterator[WeaviateServer]:
    """The session's Weaviate; tests use URLs with names of their own (`new_url`)."""
    with required_or_skipped(weaviate.weaviate()) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The session's S3-compatible object store (versitygw)."""
    with required_or_skipped(versitygw.versitygw()) as server:
        yield server


@pytest.fixture(scope="session", params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.servers)])
def bus_server(request: pytest.FixtureRequest) -> RedisServer | RabbitServer:
    """The broker behind each adapter of the bus, one after the other; both can be stopped and started."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture(scope="session")
def bus_url(bus_server: RedisServer | RabbitServer) -> str:
    """URL of the bus, once per adapter: a test that takes it runs against both."""
    return bus_server.url


@pytest.fixture(scope="session")
def keycloak_server() -> Iterator[KeycloakServer]:
    """The session's Keycloak with the repository's realm; shared by all tests: put back what you change."""
    with required_or_skipped(keycloak.keycloak()) as server:
        yield server


@pytest.fixture(scope="session")
def signing(tmp_path_factory: pytest.TempPathFactory) -> SigningAuthority:
    """A caller-token authority: `signing.jwks_file`, `signing.token(subject="bob", roles=["reviewer"])`."""
    return SigningAuthority(tmp_path_factory.mktemp("signing"))


@pytest.fixture(scope="session")
def policy_dir() -> Path:
    """The repository's Cedar policies and schema."""
    return Path(__file__).parents[3] / "k8s" / "policies"


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that returns a TCP port of 127.0.0.1 that was free a moment ago."""
    return _free_port


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """`await eventually(condition, timeout=10)`: bounded wait for a plain or async condition."""
    return _eventually
