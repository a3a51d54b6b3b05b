"""Whose turn it is: so many programs at a time, fair between tenants, with bounds on how many may wait."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator

from slipway_chassis.errors import ResourceExhausted

from slipway_tools.errors import QueueFull


class TenantLimit(ResourceExhausted):
    """The tenant runs as many programs, or holds as many sessions, as it may."""

    reason = "TENANT_SANDBOX_LIMIT"


class Turns:
    """Lets `slots` programs run; `queue` more may wait, of one tenant at most `per_tenant` run and wait.

    Tenants that wait take turns: however many one sends, another's next call is served after one of each.
    """

    def __init__(self, slots: int, queue: int, per_tenant: int) -> None:
        self._free = slots
        self._queue = queue
        self._per_tenant = per_tenant
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._calls: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return sum(map(len, self._waiting.values()))

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[None]:
        """Run the block when it is the tenant's turn.

        Raises:
            TenantLimit: the tenant runs and waits for too many already.
            QueueFull: too many calls wait already.
        """
        if self._calls.get(tenant, 0) >= self._per_tenant:
            raise TenantLimit(
                f"the tenant has {self._per_tenant} programs running or waiting, which is its limit of concurrent"
                " sandboxes (SLIPWAY_TOOLS_SANDBOX_TENANT_CALLS)",
                metadata={"limit": "tenant_calls", "value": str(self._per_tenant)},
                retry_after=1,
            )
        if self._free == 0 and self.waiting >= self._queue:
            raise QueueFull(
                "all sandboxes are busy and the queue is full",
                metadata={"limit": "queue", "value": str(self._queue)},
                retry_after=1,
            )
        self._calls[tenant] = self._calls.get(tenant, 0) + 1
        try:
            await self._take(tenant)
            try:
                yield
            finally:
                self._give()
        finally:
            self._calls[tenant] -= 1
            if not self._calls[tenant]:
                del self._calls[tenant]

    async def _take(self, tenant: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give()  # it was given just now
            else:
                self._forget(tenant, place)
            raise

    def _forget(self, tenant: str, place: "asyncio.Future[None]") -> None:
        line = self._waiting.get(tenant)
        if line is not None:
            with contextlib.suppress(ValueError):
                line.remove(place)
            if not line:
                self._waiting.pop(tenant, None)

    def _give(self) -> None:
        while self._waiting:
            tenant, line = next(iter(self._waiting.items()))
            place = line.popleft()
            if line:
                self._waiting.move_to_end(tenant)
            else:
                del self._waiting[tenant]
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
