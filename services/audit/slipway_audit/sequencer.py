"""The sequencer: events of one tenant enter its log in one order, many in one transaction."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis import telemetry
from slipway_chassis.errors import Aborted, Unavailable
from slipway_chassis.logs import get_logger

from slipway_audit.errors import EventConflict
from slipway_audit.leaf import Leaf
from slipway_audit.store import LogStore

BATCH = 500
_RETRY_FIRST, _RETRY_MOST = 0.1, 5.0  # seconds between attempts while the database is away

_log = get_logger(__name__)
_appended = Counter("slipway_audit_events_appended", "Events appended to a log", registry=telemetry.registry)
_repeated = Counter("slipway_audit_events_repeated", "Events that were there already", registry=telemetry.registry)
_conflicts = Counter(
    "slipway_audit_event_conflicts",
    "Events that came with another content under a known id",
    registry=telemetry.registry,
)
_lag = Histogram(
    "slipway_audit_lag_seconds",
    "From an event to its place in the log",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600),
    registry=telemetry.registry,
)
_waiting = Gauge("slipway_audit_events_waiting", "Events that wait for the sequencer", registry=telemetry.registry)
_size = Gauge("slipway_audit_tree_size", "Leaves of a tenant's log", ["tenant"], registry=telemetry.registry)

_Item = tuple[Leaf, "asyncio.Future[None]"]


class Sequencer:
    """Gathers what is waiting and appends it, a batch per tenant at a time."""

    def __init__(self, store: LogStore, appended: Callable[[str, Sequence[str]], None]) -> None:
        """`appended` is told the tenant and the ids that its log holds after each commit."""
        self._store = store
        self._tell = appended
        self._queues: dict[str, deque[_Item]] = {}
        self._wake = asyncio.Event()
        self._stopped = False

    async def append(self, leaf: Leaf) -> None:
        """Returns when the leaf is in the log. Raises EventConflict when its id stands there for another event.

        While the database is away it waits: an event must not end among the dead letters for that. Raises Unavailable
        when the sequencer has stopped, so that the message goes back to the bus at once.
        """
        if self._stopped:
            raise _stopping()
        future = asyncio.get_running_loop().create_future()
        self._queues.setdefault(leaf.tenant, deque()).append((leaf, future))
        _waiting.inc()
        self._wake.set()
        await future

    async def run(self) -> None:
        """Append until cancelled; what is waiting then is told that it was not appended."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queues:
                    # Tenants take turns, so that none waits for the whole backlog of another.
                    for tenant in list(self._queues):
                        await self._append_batch(tenant, self._take(tenant))
        except asyncio.CancelledError:
            self._stopped = True
            for tenant in list(self._queues):
                while tenant in self._queues:
                    _settle_all(self._take(tenant), _stopping())
            raise

    def _take(self, tenant: str) -> list[_Item]:
        queue = self._queues[tenant]
        batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
        if not queue:
            del self._queues[tenant]
        _waiting.dec(len(batch))
        # Whoever waited may be gone (its consumer was cancelled); its message comes again.
        return [item for item in batch if not item[1].done()]

    async def _append_batch(self, tenant: str, batch: Sequence[_Item]) -> None:
        if not batch:
            return
        try:
            conflicts = await self._patiently(tenant, [leaf for leaf, _ in batch])
        except asyncio.CancelledError:
            _settle_all(batch, _stopping())
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not stop the log
            if len(batch) == 1:
                _log.error("audit.append_failed", tenant=tenant, event_id=batch[0][0].event_id, exc_info=error)
                _settle(batch[0][1], error)
                return
            # One event may spoil a batch: by itself, each stands or falls alone.
            for item in batch:
                await self._append_batch(tenant, [item])
            return
        self._tell(tenant, [leaf.event_id for leaf, _ in batch if not any(leaf is one for one in conflicts)])
        for leaf, future in batch:
            if any(leaf is one for one in conflicts):
                _conflicts.inc()
                _log.error("audit.event_conflict", tenant=tenant, event_id=leaf.event_id)
                _settle(future, EventConflict(f"the log has another event under the id {leaf.event_id}"))
            else:
                _settle(future, None)

    async def _patiently(self, tenant: str, leaves: Sequence[Leaf]) -> Sequence[Leaf]:
        delay = _RETRY_FIRST
        while True:
            try:
                done = await self._store.append(tenant, leaves)
            except (Unavailable, Aborted, OSError) as error:
                _log.warning("audit.append_delayed", tenant=tenant, error=type(error).__name__, retry_in=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MOST)
            else:
                break
        _appended.inc(len(done.appended))
        _repeated.inc(len(leaves) - len(done.appended) - len(done.conflicts))
        _size.labels(tenant).set(done.size)
        for leaf in done.appended:
            if leaf.time is not None:
                _lag.observe(max(0.0, done.time.timestamp() - leaf.time.timestamp()))
        return done.conflicts


def _stopping() -> Unavailable:
    return Unavailable("the sequencer is stopping")


def _settle_all(batch: Sequence[_Item], error: Exception) -> None:
    for _, future in batch:
        _settle(future, error)


def _settle(future: "asyncio.Future[None]", error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
