"""What the contract suites of the bus share."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from slipway_chassis.bus import Bus, open_bus
from slipway_testkit.consuming import Consumers


@pytest.fixture
def namespace() -> str:
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
async def new_bus(bus_url: str, namespace: str) -> AsyncIterator[Callable[..., Awaitable[Bus]]]:
    """Opens a further client of the same bus, as another process would."""
    opened: list[Bus] = []

    async def new(in_namespace: str = namespace) -> Bus:
        opened.append(await open_bus(bus_url, namespace=in_namespace))
        return opened[-1]

    yield new
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(new_bus) -> Bus:
    return await new_bus()


@pytest.fixture
async def consumers(new_bus) -> AsyncIterator[Consumers]:
    started = Consumers()
    yield started
    await started.close()
