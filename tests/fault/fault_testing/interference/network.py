"""What networks do, and machines that hang: nobody is gone, and nobody answers."""

import time
from collections.abc import Callable

from slipway_testkit.faulty_proxy import Mode

from fault_testing.outages import Outages

_SECONDS = 8
_LATENCY = 0.1


def slow(outages: Outages) -> None:
    """The network to every server takes a tenth of a second in each direction."""
    assert outages.network is not None
    with outages.network.delayed(_LATENCY):
        time.sleep(2 * _SECONDS)


def through(server: str, mode: Mode) -> Callable[[Outages], None]:
    """The network between the services and a server fails in one way for a while."""

    def fail(outages: Outages) -> None:
        assert outages.network is not None
        with outages.network.failing(server, mode):
            time.sleep(_SECONDS)

    fail.__name__ = mode
    return fail


def frozen(server: str) -> Callable[[Outages], None]:
    """The server hangs: its machine accepts connections, and nothing answers."""

    def freeze(outages: Outages) -> None:
        with outages.frozen(server):
            time.sleep(_SECONDS)

    freeze.__name__ = "frozen"
    return freeze
