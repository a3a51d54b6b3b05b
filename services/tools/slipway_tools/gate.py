"""Bounds how many calls of other servers run at once and how many may wait, all together and of one tenant."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from slipway_chassis.errors import ResourceExhausted

from slipway_tools.sandbox.turns import Turns


class TenantCalls(ResourceExhausted):
    """The tenant has as many calls running and waiting as it may."""

    reason = "TENANT_CALL_LIMIT"


@dataclass
class _Tenant:
    running: asyncio.Semaphore
    calls: int = 0


class Gate:
    """Lets `limit` calls run, of one tenant three quarters of them; `queue` more may wait, of one tenant half of them.

    So one tenant's slow servers leave room for everybody else's, and whoever waits is served in turns between tenants.
    """

    def __init__(self, limit: int, queue: int) -> None:
        self._turns = Turns(limit, queue, per_tenant=limit + queue)
        self._own_limit = max(1, limit * 3 // 4)
        self._own_calls = self._own_limit + queue // 2
        self._tenants: dict[str, _Tenant] = {}

    @asynccontextmanager
    async def enter(self, tenant: str) -> AsyncGenerator[None]:
        """Run the block when there is room.

        Raises:
            QueueFull: too many calls wait already.
            TenantCalls: too many of the tenant's.
        """
        own = self._tenants.setdefault(tenant, _Tenant(asyncio.Semaphore(self._own_limit)))
        if own.calls >= self._own_calls:
            raise TenantCalls(
                f"the tenant has {own.calls} calls of tools running and waiting already",
                metadata={"limit": "tenant_calls", "value": str(self._own_calls)},
                retry_after=1,
            )
        own.calls += 1
        try:
            async with own.running, self._turns.turn(tenant):
                yield
        finally:
            own.calls -= 1
            if not own.calls:
                del self._tenants[tenant]
