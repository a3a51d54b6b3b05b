"""A worker: waits for wake-ups, claims what is due, and advances up to so many runs at a time.

The bus only wakes. What it loses, the sweep finds: it queues runs whose wait or lease is over, and sleeps until the
next one is due, or for the time between sweeps. With the bus down, that alone carries on.
"""

import asyncio
import json
import random
import time
from contextlib import suppress

from slipway_chassis.bus import Bus, Message
from slipway_chassis.errors import Unavailable
from slipway_chassis.ids import new_id
from slipway_chassis.logs import get_logger
from slipway_chassis.telemetry import extract, span

from slipway_orchestrator.store.committing import LeaseLost
from slipway_orchestrator.store.leases import Lease, Leases
from slipway_orchestrator.store.queue import RunQueue
from slipway_orchestrator.store.runs import WAKE_UP
from slipway_orchestrator.worker.advancing import Advance
from slipway_orchestrator.worker.announcing import INBOX, Announcer
from slipway_orchestrator.worker.held import Tools
from slipway_orchestrator.worker.metrics import (
    ACTIVE,
    CLAIM_SECONDS,
    CLAIMABLE,
    LEASES_LOST,
    LEASES_RECOVERED,
    RUNS,
    SWEEP_SECONDS,
)

_log = get_logger(__name__)
_GROUP = "workers"
_SWEEP_BATCH = 100
_SWEEP_PAUSE = 0.05  # seconds between sweeps when much happens
_GIVE_BACK = 5.0
_STATES = ("QUEUED", "RUNNING", "WAITING_APPROVAL", "WAITING_SIGNAL", "WAITING_RUN", "WAITING_TIMER", "PAUSED")


class Worker:
    """Claims and advances runs until cancelled."""

    def __init__(
        self, tools: Tools, leases: Leases, queue: RunQueue, bus: Bus, *, concurrency: int, sweep_seconds: float
    ) -> None:
        self._tools = tools
        self._leases = leases
        self._queue = queue
        self._bus = bus
        self._announcer: Announcer = tools.announcer
        self._free = concurrency
        self._concurrency = concurrency
        self._sweep_seconds = sweep_seconds
        self._swept = 0.0
        self._wake = asyncio.Event()
        self._advances: dict[str, Advance] = {}
        """Of the runs held here."""
        self._pools: set[str] = set()
        """Worker pools that had claimable runs once."""

    async def run(self) -> None:
        """Claim what is due whenever woken, until cancelled; then give back what is held, and wake others for it."""
        async with asyncio.TaskGroup() as group:  # cancelled, it cancels what runs, and each gives its lease back
            while True:
                self._wake.clear()
                await self._claim_due(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(await self._sweep()):
                        await self._wake.wait()

    async def consume(self) -> None:
        """Take wake-ups from the bus, until cancelled."""

        async def woken(message: Message, _delivery: int) -> None:
            run_id = str(json.loads(message.body).get("run_id"))
            try:
                run = await self._queue.look(run_id)
            except Unavailable:
                return  # the sweep finds it
            if run is None:
                self._wake.set()  # perhaps it is due later than now, and earlier than the next sweep
            elif run.held:
                if run.asked:
                    self._announcer.say(INBOX, {"run_id": run_id})
            elif run.worker_pool == self._queue.worker_pool and self._free > 0:
                self._wake.set()
            else:  # another worker may be idle, or in the pool that the run asks for
                self._announcer.say(INBOX, {"due": run.worker_pool})

        await self._bus.consume(WAKE_UP, _GROUP, woken, concurrency=self._concurrency)

    async def listen(self) -> None:
        """Hear of inboxes of the runs held here, and of runs that full workers cannot take, until cancelled."""
        while True:
            try:
                async with self._bus.subscribe(INBOX) as messages:
                    async for data in messages:
                        said = json.loads(data)
                        advance = self._advances.get(str(said.get("run_id")))
                        if advance is not None:
                            advance.nudge()
                        if said.get("due") == self._queue.worker_pool and self._free > 0:
                            self._wake.set()
            except Unavailable:
                _log.warning("worker.deaf")
            await asyncio.sleep(random.uniform(1, 3))  # noqa: S311 - jitter

    async def measure(self) -> None:
        """Count runs for the metrics, until cancelled."""
        pool = self._queue.worker_pool
        while True:
            with suppress(Unavailable):
                states, claimable = await self._queue.count()
                for state in _STATES:
                    RUNS.labels(state).set(states.get(state, 0))
                for name in {pool, *claimable, *self._pools}:
                    CLAIMABLE.labels(name).set(claimable.get(name, 0))
                self._pools.update(claimable)
            await asyncio.sleep(30)

    async def _claim_due(self, group: asyncio.TaskGroup) -> None:
        while self._free > 0:
            # Not all at once, and the more this worker has in hands the later: others may be idle.
            most = max(1, self._free // 4)
            try:
                leases = await self._queue.claim(most)
            except Unavailable as error:
                _log.warning("worker.no_database", reason=error.reason)
                return
            for lease in leases:
                self._tools.crash.passing("after-claim")
                self._free -= 1
                ACTIVE.inc()
                CLAIM_SECONDS.observe(max((lease.database_time - lease.due).total_seconds(), 0.0))
                if lease.recovered:
                    LEASES_RECOVERED.inc()
                group.create_task(self._advance(lease), name=lease.run.run_id)
            if len(leases) < most:
                return
            await asyncio.sleep(0.001 * (self._concurrency - self._free))

    async def _sweep(self) -> float:
        """Queue what is due; seconds until it is worth looking again."""
        began = time.monotonic()
        if began - self._swept < _SWEEP_PAUSE:
            return self._swept + _SWEEP_PAUSE - began
        self._swept = began
        try:
            requeued = await self._queue.requeue_due(_SWEEP_BATCH)
            own = [item for item in requeued if item[2] == self._queue.worker_pool]
            if own and self._free > 0:
                self._wake.set()
            taken = {run_id for run_id, _, _ in own[: self._free]}
            for run_id, tenant, _ in requeued:
                if run_id not in taken:
                    await self._publish(run_id, tenant)
            wait = await self._queue.next_wake()
        except Unavailable as error:
            _log.warning("worker.no_database", reason=error.reason)
            return self._sweep_seconds
        SWEEP_SECONDS.observe(time.monotonic() - began)
        # A little later than due, and not all workers at once.
        spread = random.uniform(0.0, 0.05)  # noqa: S311
        return min(self._sweep_seconds, max(wait, 0.0) if wait is not None else self._sweep_seconds) + spread

    async def _publish(self, run_id: str, tenant: str) -> None:
        body = json.dumps({"run_id": run_id}).encode()
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(2):
                await self._bus.publish(Message(new_id("wake"), WAKE_UP, body, tenant))

    async def _advance(self, lease: Lease) -> None:
        advance = self._advances[lease.run.run_id] = Advance(self._tools, lease)
        parent = extract({"traceparent": lease.run.traceparent})
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": lease.run.agent,
            "slipway.run_id": lease.run.run_id,
            "slipway.epoch": lease.epoch,
        }
        try:
            with span(f"invoke_agent {lease.run.agent}", parent=parent, attributes=attributes):
                await advance.run()
        except LeaseLost:
            LEASES_LOST.inc()
            _log.warning("lease.lost", run_id=lease.run.run_id, epoch=lease.epoch)
        except Unavailable as error:
            # Whether the last commit was written is known from the journal, once the database is back.
            _log.warning("run.given_back", run_id=lease.run.run_id, reason=error.reason)
            await self._give_back(lease)
        except asyncio.CancelledError:
            await self._give_back(lease)
            raise
        except Exception as error:  # noqa: BLE001 - one run must not end the worker; its lease runs out
            _log.error("run.stuck", run_id=lease.run.run_id, exc_info=error)
        finally:
            self._advances.pop(lease.run.run_id, None)
            self._free += 1
            ACTIVE.dec()
            self._wake.set()

    async def _give_back(self, lease: Lease) -> None:
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK):
                await self._leases.let_go(lease)
                await self._publish(lease.run.run_id, lease.run.tenant)
