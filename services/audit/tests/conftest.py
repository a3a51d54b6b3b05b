"""The audit service, over each adapter of the bus where it matters."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from slipway_evidence.note import SignerKey
from slipway_testkit.servers.redis import RedisServer

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from audit_testing.service import Audit, running


@pytest.fixture
def valkey_url(valkey_server: RedisServer) -> str:
    """A database of Valkey of the test's own: the events that other tests' services left on the bus are none of it."""
    return valkey_server.new_database()


@pytest.fixture(scope="session")
def key() -> SignerKey:
    return SignerKey.generate("slipway.dev/test")


@pytest.fixture
async def audit(
    database_url: str, valkey_url: str, key: SignerKey, tmp_path: Path, policy_dir: Path, signing: Any
) -> AsyncIterator[Audit]:
    namespace = f"audit{os.urandom(4).hex()}"
    async with running(database_url, valkey_url, namespace, key, tmp_path / "heads", policy_dir, signing) as service:
        yield service


@pytest.fixture
async def audit_on_bus(
    database_url: str, bus_url: str, key: SignerKey, tmp_path: Path, policy_dir: Path, signing: Any
) -> AsyncIterator[Audit]:
    """The same over each adapter of the bus."""
    namespace = f"audit{os.urandom(4).hex()}"
    async with running(database_url, bus_url, namespace, key, tmp_path / "heads", policy_dir, signing) as service:
        yield service
