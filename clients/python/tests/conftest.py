"""The client against a server that answers as it is told."""

from collections.abc import Iterator

import pytest
from slipway_client import Client
from slipway_testkit.scripted_server import ScriptedServer


@pytest.fixture
def gateway() -> Iterator[ScriptedServer]:
    with ScriptedServer() as gateway:
        yield gateway


@pytest.fixture
def client(gateway: ScriptedServer) -> Iterator[Client]:
    with Client(gateway.url, "a-token", timeout=10) as client:
        yield client
