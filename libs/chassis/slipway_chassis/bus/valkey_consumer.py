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
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from slipway_chassis.bus.backoff import Reconnect, retry_delay
from slipway_chassis.bus.handlers import HandlerPool, attempt
from slipway_chassis.bus.message import CONSUMER_LOST, Message
from slipway_chassis.bus.metrics import handled
from slipway_chassis.bus.protocol import Handler
from slipway_chassis.bus.together import Together
from slipway_chassis.bus.valkey_entries import (
    Fields,
    MalformedEntry,
    decode_entry,
    encode_dead_entry,
    encode_entry,
    is_for,
)
from slipway_chassis.bus.valkey_group import GroupMember
from slipway_chassis.logs import get_logger

BLOCK_MS = 5_000
CLAIM_MS = 10_000  # not below the longest of RETRY_DELAYS: an entry can't be idle since the future
_HOLD_SECONDS = 3.0
_SWEEP_SECONDS = 5.0

_log = get_logger(__name__)


class StreamConsumer:
    """See the module. One instance runs once."""

    def __init__(
        self,
        client: Redis,
        waiting: Redis,
        *,
        topic: str,
        stream: str,
        dead: str,
        group: str,
        handler: Handler,
        concurrency: int,
        max_deliveries: int,
    ) -> None:
        self._member = GroupMember(client, waiting, stream, group, f"{socket.gethostname()}-{secrets.token_hex(4)}")
        self._topic = topic
        self._stream = stream
        self._dead = dead
        self._group = group
        self._handler = handler
        self._concurrency = concurrency
        self._max_deliveries = max_deliveries
        self._pool = HandlerPool(concurrency)
        self._acknowledgements = Together(self._member.acknowledge)
        self._held: dict[bytes, float] = {}  # entry -> when its lease was last renewed (monotonic seconds)
        self._room = asyncio.Event()
        self._due: list[float] = []  # when parked entries are due (monotonic seconds)
        self._wake = asyncio.Event()
        self._acknowledged = True  # since the last trimming; what an earlier run left counts too

    async def run(self) -> None:
        """Consumes until cancelled; then drains handlers and gives back what is left."""
        await self._member.ensure_group()
        try:
            async with asyncio.TaskGroup() as loops:
                for step in (self._read, self._take_over, self._hold):
                    loops.create_task(self._repeat(step))
        finally:
            with suppress(RedisError):
                await self._renew()  # the last time: a lease is longer than the drain
            await self._pool.drain()
            await self._member.leave(CLAIM_MS)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        reconnect = Reconnect()
        task = asyncio.current_task()
        while True:
            if task is not None and task.cancelling():
                # A cancellation that arrives while the client library begins a command can be lost in it.
                raise asyncio.CancelledError
            try:
                await step()
                reconnect.succeeded()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    _log.warning("bus.refused", stream=self._stream, group=self._group, error=str(error))
                await reconnect.wait()
                await self._member.ensure_group()
            except RedisError as error:
                if reconnect.to_report():
                    _log.warning("bus.unreachable", stream=self._stream, group=self._group, error=str(error))
                await reconnect.wait()

    async def _read(self) -> None:
        """One blocking read of as many new entries as handlers are free."""
        while (free := self._concurrency - len(self._held)) <= 0:
            self._room.clear()
            await self._room.wait()
        for entry_id, fields in await self._member.read(free, BLOCK_MS):
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
        position = b"0-0"
        while (room := 2 * self._concurrency - len(self._held)) > 0:
            position, taken = await self._member.take_over(position, room, CLAIM_MS)
            for entry_id, fields, deliveries in taken:
                if entry_id not in self._held:
                    self._start(entry_id, fields, deliveries)
            if position == b"0-0":
                break
        if self._acknowledged:
            self._acknowledged = False
            await self._member.trim()

    async def _hold(self) -> None:
        """Renews leases, again and again."""
        await asyncio.sleep(_HOLD_SECONDS)
        await self._renew()

    async def _renew(self) -> None:
        """Renews the leases of entries in hand. One that has ended belongs to whoever took over: it is left alone."""
        now = time.monotonic()
        leased = [entry_id for entry_id in self._held if not self._is_lost(entry_id)]
        if leased:
            await self._member.set_idle(leased, 0)
            self._held.update({entry_id: now for entry_id in leased if entry_id in self._held})

    def _is_lost(self, entry_id: bytes) -> bool:
        return time.monotonic() - self._held[entry_id] > CLAIM_MS / 1000

    def _start(self, entry_id: bytes, fields: Fields, deliveries: int) -> None:
        self._held[entry_id] = time.monotonic()
        self._pool.start(self._handle(entry_id, fields, deliveries))

    async def _handle(self, entry_id: bytes, fields: Fields, deliveries: int) -> None:
        try:
            await self._settle(entry_id, fields, deliveries)
        except Exception as error:  # noqa: BLE001 - the consumer goes on, whatever went wrong with one message
            # The entry stays pending: it comes again, with a higher count, which consumers must bear anyway.
            _log.warning("bus.not_settled", stream=self._stream, group=self._group, error=repr(error))
        finally:
            del self._held[entry_id]
            self._room.set()

    async def _settle(self, entry_id: bytes, fields: Fields, deliveries: int) -> None:
        try:
            message = decode_entry(fields)
        except MalformedEntry as error:
            # Kept in a form that dead letters have, whatever it was.
            found = encode_entry(Message(entry_id.decode(), self._topic, fields.get(b"body", b"")))
            await self._give_up(entry_id, found, f"MALFORMED: {error}", deliveries)
            return
        if not is_for(fields, self._group):
            await self._acknowledge(entry_id)
        elif deliveries > self._max_deliveries:
            await self._give_up(entry_id, fields, CONSUMER_LOST, deliveries - 1)
        elif (reason := await attempt(self._handler, message, deliveries, self._group)) is None:
            await self._acknowledge(entry_id)
            self._count("acknowledged")
        elif self._is_lost(entry_id):
            pass  # whoever took over has the say now
        elif deliveries == self._max_deliveries:
            await self._give_up(entry_id, fields, reason, deliveries)
        else:
            await self._park(entry_id, retry_delay(deliveries))

    async def _acknowledge(self, entry_id: bytes) -> None:
        await self._acknowledgements.add(entry_id)
        self._acknowledged = True

    async def _give_up(self, entry_id: bytes, fields: Fields, reason: str, deliveries: int) -> None:
        await self._member.move(entry_id, encode_dead_entry(fields, reason, deliveries), self._dead)
        self._acknowledged = True
        self._count("dead")
        _log.error("bus.dead_letter", stream=self._stream, group=self._group, reason=reason, deliveries=deliveries)

    async def _park(self, entry_id: bytes, seconds: float) -> None:
        await self._member.set_idle([entry_id], CLAIM_MS - round(seconds * 1000))
        self._count("retried")
        self._due.append(time.monotonic() + seconds + 0.01)
        self._wake.set()

    def _count(self, outcome: str) -> None:
        handled.labels(self._topic, self._group, outcome).inc()
