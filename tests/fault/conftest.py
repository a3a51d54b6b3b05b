"""Stacks for the fault tests, and one that most of them share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slipway_testkit.stack import Stack

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from fault_testing import otlp
from fault_testing.desk import open_desk
from fault_testing.ledger import Ledger, serve
from fault_testing.otlp import Collector

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
