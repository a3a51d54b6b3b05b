"""One consumer of a stream: reads, hands out, acknowledges, takes over from the dead, trims.

The list of pending entries in the server is the only state. An entry's idle time there is its lease:

- while a handler runs, the consumer keeps it near zero (`_hold`);
- a failed delivery sets it so that the lease ends when the next delivery is due (`_park`);
- an entry whose lease has ended (CLAIM_MS) is taken over by any consumer of the group (`_take_over`), which counts
  as a further delivery: so entries of a crashed consumer go on, and need nobody who watches over consumers.
"""

import asyncio
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from slipway_chassis.bus.backoff import Reconnect, retry_delay
from slipway_chassis.bus.handlers import HandlerPool, attempt
from slipway_chassis.bus.message import CONSUMER_LOST, Message
from slipway_chassis.bus.protocol import Handler
from slipway_chassis.bus.valkey_entries import (
    Fields,
    MalformedEntry,
    decode_entry,
    encode_dead_entry,
    encode_entry,
    is_for,
)

BLOCK_MS = 5_000
CLAIM_MS = 10_000
_HOLD_SECONDS = 3.0
_SWEEP_SECONDS = 5.0
_RELEASED = "released"
"""Owner in name of entries that a stopped consumer gave back."""

_log = structlog.get_logger(__name__)


class StreamConsumer:
    """See the module. One instance runs once."""

    def __init__(
        self,
        client: Redis,
        *,
        stream: str,
        dead: str,
        group: str,
        handler: Handler,
        concurrency: int,
        max_deliveries: int,
    ) -> None:
        self._client = client
        self._stream = stream
        self._dead = dead
        self._group = group
        self._handler = handler
        self._concurrency = concurrency
        self._max_deliveries = max_deliveries
        self._name = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._pool = HandlerPool(concurrency)
        self._held: dict[bytes, float] = {}  # entry -> when its lease was last renewed (monotonic seconds)
        self._room = asyncio.Event()
        self._due: list[float] = []  # when parked entries are due (monotonic seconds)
        self._wake = asyncio.Event()
        self._acknowledged = True  # since the last trimming; what an earlier run left counts too

    async def run(self) -> None:
        """Consumes until cancelled; then drains handlers and gives back what is left."""
        try:
            async with asyncio.TaskGroup() as loops:
                for step in (self._read, self._take_over, self._hold):
                    loops.create_task(self._repeat(step))
        finally:
            await self._pool.drain()
            await self._leave()

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        reconnect = Reconnect()
        while True:
            try:
                await step()
                reconnect.succeeded()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    _log.warning("bus.refused", stream=self._stream, group=self._group, error=str(error))
                await reconnect.wait()
                await self._ensure_group()
            except RedisError as error:
                if reconnect.attempts == 0:
                    _log.warning("bus.unreachable", stream=self._stream, group=self._group, error=str(error))
                await reconnect.wait()

    async def _ensure_group(self) -> None:
        """Creates stream and group from the stream's beginning; also after somebody has purged them."""
        try:
            await self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except RedisError as error:
            if not str(error).startswith("BUSYGROUP"):
                _log.debug("bus.group_not_created", stream=self._stream, group=self._group, error=str(error))

    async def _read(self) -> None:
        """One blocking read of as many new entries as handlers are free."""
        while (free := self._concurrency - len(self._held)) <= 0:
            self._room.clear()
            await self._room.wait()
        read = await self._client.xreadgroup(self._group, self._name, {self._stream: ">"}, count=free, block=BLOCK_MS)
        for _, entries in cast(list[tuple[bytes, list[tuple[bytes, Fields]]]], read):
            for entry_id, fields in entries:
                self._start(entry_id, fields, 1)

    async def _take_over(self) -> None:
        """Waits for the next parked entry or the sweep, then takes over entries whose lease has ended."""
        now = time.monotonic()
        pause = min([_SWEEP_SECONDS, *(due - now for due in self._due)])
        if pause > 0:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
                return  # another entry was parked: look again for which one is due first
            except TimeoutError:
                pass
        self._due = [due for due in self._due if due > time.monotonic()]
        position: bytes | str = "0-0"
        while (room := 2 * self._concurrency - len(self._held)) > 0:
            position, claimed = await self._claim(position, room)
            for entry_id, fields, deliveries in claimed:
                self._start(entry_id, fields, deliveries)
            if position == b"0-0":
                break
        if self._acknowledged:
            self._acknowledged = False
            await self._trim()

    async def _claim(self, position: bytes | str, count: int) -> tuple[bytes, list[tuple[bytes, Fields, int]]]:
        answer = await self._client.xautoclaim(self._stream, self._group, self._name, CLAIM_MS, position, count=count)
        entries = [(entry_id, fields) for entry_id, fields in answer[1] if entry_id not in self._held]
        async with self._client.pipeline(transaction=False) as pipeline:
            for entry_id, _ in entries:
                pipeline.xpending_range(self._stream, self._group, entry_id, entry_id, 1)
            pending = await pipeline.execute()
        counts = {row["message_id"]: int(row["times_delivered"]) for rows in pending for row in rows}
        return answer[0], [(entry_id, fields, counts.get(entry_id, 1)) for entry_id, fields in entries]

    async def _hold(self) -> None:
        """Renews the leases of entries in hand. One that has ended belongs to whoever took over: it is left alone."""
        await asyncio.sleep(_HOLD_SECONDS)
        now = time.monotonic()
        leased = [entry_id for entry_id in self._held if not self._is_lost(entry_id)]
        if leased:
            await self._client.xclaim(self._stream, self._group, self._name, 0, leased, justid=True)
            self._held.update({entry_id: now for entry_id in leased if entry_id in self._held})

    def _is_lost(self, entry_id: bytes) -> bool:
        return time.monotonic() - self._held[entry_id] > CLAIM_MS / 1000

    def _start(self, entry_id: bytes, fields: Fields, deliveries: int) -> None:
        self._held[entry_id] = time.monotonic()
        self._pool.start(self._handle(entry_id, fields, deliveries))

    async def _handle(self, entry_id: bytes, fields: Fields, deliveries: int) -> None:
        try:
            await self._settle(entry_id, fields, deliveries)
        except RedisError as error:
            # The entry stays pending: it comes again, which consumers must bear anyway.
            _log.warning("bus.not_settled", stream=self._stream, group=self._group, error=str(error))
        finally:
            del self._held[entry_id]
            self._room.set()

    async def _settle(self, entry_id: bytes, fields: Fields, deliveries: int) -> None:
        try:
            message = decode_entry(fields)
        except MalformedEntry as error:
            # Kept in a form that dead letters have, whatever it was.
            found = encode_entry(Message(entry_id.decode(), self._stream, fields.get(b"body", b"")))
            await self._give_up(entry_id, cast(Fields, found), f"MALFORMED: {error}", deliveries)
            return
        if not is_for(fields, self._group):
            await self._acknowledge(entry_id)
        elif deliveries > self._max_deliveries:
            await self._give_up(entry_id, fields, CONSUMER_LOST, deliveries - 1)
        elif (reason := await attempt(self._handler, message, deliveries, self._group)) is None:
            await self._acknowledge(entry_id)
        elif self._is_lost(entry_id):
            pass  # whoever took over has the say now
        elif deliveries == self._max_deliveries:
            await self._give_up(entry_id, fields, reason, deliveries)
        else:
            await self._park(entry_id, retry_delay(deliveries))

    async def _acknowledge(self, entry_id: bytes) -> None:
        await self._client.xack(self._stream, self._group, entry_id)
        self._acknowledged = True

    async def _give_up(self, entry_id: bytes, fields: Fields, reason: str, deliveries: int) -> None:
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(self._dead, cast(Any, encode_dead_entry(fields, reason, deliveries)))
            pipeline.xack(self._stream, self._group, entry_id)
            await pipeline.execute()
        self._acknowledged = True
        _log.error("bus.dead_letter", stream=self._stream, group=self._group, reason=reason, deliveries=deliveries)

    async def _park(self, entry_id: bytes, seconds: float) -> None:
        idle = max(0, CLAIM_MS - round(seconds * 1000))
        await self._client.xclaim(self._stream, self._group, self._name, 0, [entry_id], idle=idle, justid=True)
        self._due.append(time.monotonic() + seconds + 0.01)
        self._wake.set()

    async def _trim(self) -> None:
        """Removes what every group has acknowledged: all before the oldest pending, or not yet read, entry."""
        floors: list[tuple[int, int]] = []
        for group in await self._client.xinfo_groups(self._stream):
            if group["pending"]:
                summary = await self._client.xpending(self._stream, group["name"])
                if summary["min"] is not None:
                    floors.append(_parse_id(summary["min"]))
                    continue
            milliseconds, sequence = _parse_id(group["last-delivered-id"])
            floors.append((milliseconds, sequence + 1))
        if floors:
            floor = "{}-{}".format(*min(floors))
            await self._client.xtrim(self._stream, minid=floor, approximate=False)

    async def _leave(self) -> None:
        """Ends the leases of unfinished entries and removes this consumer from the group."""
        try:
            rows = await self._client.xpending_range(self._stream, self._group, "-", "+", 10_000, self._name)
            if rows:
                entries = [row["message_id"] for row in rows]
                await self._client.xclaim(self._stream, self._group, _RELEASED, 0, entries, idle=CLAIM_MS, justid=True)
            await self._client.xgroup_delconsumer(self._stream, self._group, self._name)
        except RedisError as error:
            # Then the leases end by themselves.
            _log.debug("bus.left_without_goodbye", stream=self._stream, group=self._group, error=str(error))


def _parse_id(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
