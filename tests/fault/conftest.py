"""Stacks for the fault tests, and one that most of them share."""

import secrets
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
from fault_testing.aftermath import Aftermath
from fault_testing.desk import open_desk, until
from fault_testing.ledger import Ledger, serve
from fault_testing.library import COLLECTION
from fault_testing.network import Network
from fault_testing.otlp import Collector
from fault_testing.outages import KEYCLOAK_KILLS, ON_REQUEST, Outages, Server

# On a machine that is very busy.
_START_SECONDS = 400 if ON_REQUEST else 90
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
    network = Network() if getattr(request.module, "THROUGH_NETWORK", False) else None

    def port(server: str, real: int) -> int:
        return network.port(server, real) if network else real

    with embedded_postgres(tcp=True) as postgres:
        folder = tmp_path_factory.mktemp("outages")
        file, bus, bucket = folder / "servers.yaml", rabbitmq_server.create_vhost(), s3_server.create_bucket()
        collection = f"T{secrets.token_hex(4)}x"
        http, grpc = (port("weaviate", real) for real in (weaviate_server.port, weaviate_server.grpc_port))
        file.write_text(
            f"postgres: postgresql://postgres@127.0.0.1:{port('postgres', postgres.port)}/postgres\n"
            f"redis: redis://127.0.0.1:{port('redis', redis_server.port)}/7\n"
            f"bus: amqp://guest:guest@127.0.0.1:{port('bus', rabbitmq_server.port)}/{bus.rpartition('/')[2]}\n"
            f"objects: {s3_server.url(bucket, port=port('objects', s3_server.port))}\n"
            f"vectors: {weaviate_server.url(collection, port=http, grpc_port=grpc)}\n"
        )
        servers: dict[str, Server] = {
            "postgres": postgres,
            "redis": redis_server,
            "bus": rabbitmq_server,
            "objects": s3_server,
            "weaviate": weaviate_server,
        }
        if KEYCLOAK_KILLS:
            keycloak = request.getfixturevalue("keycloak_server")
            servers["identity"] = keycloak
            with file.open("a") as more:
                more.write(f"identity: {{issuer: '{keycloak.issuer()}', client_secret: development-only}}\n")
        stack = start_stack(folder / "data", "--servers", str(file), "--allow-http", ledger.address)
        stack.wait_for(r"ready\s+slipway", seconds=_START_SECONDS)
        open_desk(stack, ledger)
        with stack.as_user("alice") as alice, stack.as_user("dave") as dave:
            alice.knowledge.put_collection(COLLECTION)
            dave.budgets.put("everything", scope="tenant", period="total", limit_usd="1000")
        outages = Outages(stack, servers, bus, s3_server.buckets / bucket, collection, network)
        yield outages
        outages.bring_back()
        stack.stop()
    if network:
        network.close()


@pytest.fixture
def aftermath(calm: Outages) -> Aftermath:
    """What the stack is like before the test: `check` compares."""
    return Aftermath(calm)


@pytest.fixture
def calm(outages: Outages) -> Iterator[Outages]:
    """Everything is there before the test, and after it."""
    until(outages.well, 60, "everything is there")
    yield outages
    outages.bring_back()
