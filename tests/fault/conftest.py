"""Stacks for the fault tests, and one that most of them share."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slipway_testkit.servers.postgres import embedded_postgres
from slipway_testkit.servers.rabbitmq import RabbitServer
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.servers.versitygw import S3Server
from slipway_testkit.servers.weaviate import WeaviateServer
from slipway_testkit.stack import Stack

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from fault_testing import otlp
from fault_testing.desk import open_desk, until
from fault_testing.ledger import Ledger, serve
from fault_testing.library import COLLECTION
from fault_testing.otlp import Collector
from fault_testing.outages import Outages, Server

WITH_KEYCLOAK = "SLIPWAY_FAULT_KILLS" in os.environ
SERVICES = ("gateway", "router", "orchestrator", "memory", "tools", "audit")
StartStack = Callable[..., Stack]


@pytest.fixture(scope="session")
def ledger() -> Iterator[Ledger]:
    """The outside world."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Receives the traces of the shared stack."""
    with otlp.collect() as running:
        yield running


@pytest.fixture(scope="session")
def start_stack() -> Iterator[StartStack]:
    """Starts stacks that the tests end, and ends those that they do not."""
    started: list[Stack] = []

    def start(data_dir: Path, *arguments: str, settings: dict[str, str] | None = None) -> Stack:
        stack = Stack(data_dir, arguments, settings=settings)
        started.append(stack)
        return stack

    yield start
    for stack in started:
        stack.stop()


@pytest.fixture(scope="session")
def stack(
    ledger: Ledger, collector: Collector, start_stack: StartStack, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    """Two workers, a tool that books, and traces to the collector."""
    settings = {f"SLIPWAY_{service.upper()}_OTLP_ENDPOINT": collector.endpoint for service in SERVICES}
    # Spans are held back for a moment to be sent together; a test need not wait for long.
    settings["OTEL_BSP_SCHEDULE_DELAY"] = "500"
    data_dir = tmp_path_factory.mktemp("fault") / "data"
    stack = start_stack(data_dir, "--workers", "2", "--allow-http", ledger.address, settings=settings).ready()
    open_desk(stack, ledger)
    return stack


@pytest.fixture(scope="module")
def outages(
    rabbitmq_server: RabbitServer,
    redis_server: RedisServer,
    s3_server: S3Server,
    weaviate_server: WeaviateServer,
    request: pytest.FixtureRequest,
    ledger: Ledger,
    start_stack: StartStack,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Outages]:
    """Two workers over real servers of all kinds that the tests may kill."""
    with embedded_postgres(tcp=True) as postgres:
        folder = tmp_path_factory.mktemp("outages")
        file, bus = folder / "servers.yaml", rabbitmq_server.create_vhost()
        file.write_text(
            f"postgres: {postgres.url()}\n"
            f"redis: {redis_server.url.removesuffix('/0')}/7\n"
            f"bus: {bus}\n"
            f"objects: {s3_server.url(s3_server.create_bucket())}\n"
            f"vectors: {weaviate_server.new_url()}\n"
        )
        servers: dict[str, Server] = {
            "postgres": postgres,
            "redis": redis_server,
            "bus": rabbitmq_server,
            "objects": s3_server,
            "weaviate": weaviate_server,
        }
        if WITH_KEYCLOAK:
            keycloak = request.getfixturevalue("keycloak_server")
            servers["identity"] = keycloak
            with file.open("a") as more:
                more.write(f"identity: {{issuer: '{keycloak.issuer()}', client_secret: development-only}}\n")
        stack = start_stack(folder / "data", "--servers", str(file), "--allow-http", ledger.address).ready()
        open_desk(stack, ledger)
        with stack.as_user("alice") as alice:
            alice.knowledge.put_collection(COLLECTION)
        outages = Outages(stack, servers, bus)
        yield outages
        outages.bring_back()
        stack.stop()


@pytest.fixture
def calm(outages: Outages) -> Iterator[Outages]:
    """Everything is there before the test, and after it."""
    until(outages.well, 60, "everything is there")
    yield outages
    outages.bring_back()
