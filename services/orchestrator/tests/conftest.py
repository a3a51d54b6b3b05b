"""Fixtures: executors, and the orchestrator's processes."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from orchestrator_testing import executors
from orchestrator_testing.stack import Stack, environment
from slipway_testkit.warm import WarmProgram, warm_program


@pytest.fixture
def world() -> executors.World:
    """What the executors do and saw."""
    return executors.World()


@pytest.fixture
async def target(world: executors.World, signing: Any) -> AsyncIterator[str]:
    """Address of the executors."""
    server, address = await executors.serve(world, signing)
    yield address
    await server.stop(None)


@pytest.fixture(scope="session")
def program() -> Iterator[WarmProgram]:
    """The orchestrator, imported: its processes are forked from it."""
    with warm_program("slipway_orchestrator.main") as program:
        yield program


@pytest.fixture
async def stack(
    program: WarmProgram, database_url: str, valkey_url: str, target: str, signing: Any, policy_dir: Path
) -> AsyncIterator[Stack]:
    """An api process; tests start the workers they need."""
    settings = environment(
        database_url=database_url,
        bus_url=valkey_url,
        target=target,
        jwks=signing.jwks_file,
        policy_dir=policy_dir,
    )
    running = Stack(program, settings, signing, database_url)
    await running.start("api")
    yield running
    await running.close()
