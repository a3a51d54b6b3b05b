"""Transactional outbox: messages commit with the change they tell of, and a relay brings them to the bus.

At least once: a relay that dies between the broker's confirmation and the deletion of the row publishes again, with the
same message id. Rows are published in their order, at best effort: two relays may hold neighbouring rows, and a message
that was not confirmed comes after those that were.

A row goes when the bus has confirmed the message. One that asks for a receipt stays until its consumer says that it has
committed it (`slipway_chassis.receipts`), and is published again when none came: purged queues and a broker whose disk
was lost cost nothing but time.

Bodies with a subject lie encrypted under the subject's key and are opened when they are published. If the subject was
erased meanwhile, the message still goes out, so that nobody waits for it in vain: with its headers, the header
``erased`` = ``true``, and the body ``{"erased": true, "id": <message id>}``.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import asyncpg
from prometheus_client import Counter, Gauge

from slipway_chassis import telemetry
from slipway_chassis.bus import Bus, Message
from slipway_chassis.crypto import SubjectErased, SubjectKeys
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger
from slipway_chassis.outgoing import Outgoing
from slipway_chassis.postgres import WriteConflict, after_commit, transaction
from slipway_chassis.receipts import CHANNEL as RECEIPTS

_log = get_logger(__name__)
_backlog = Gauge("slipway_outbox_backlog", "Messages that wait for the bus", registry=telemetry.registry)
_oldest = Gauge("slipway_outbox_oldest_seconds", "Age of the oldest waiting message", registry=telemetry.registry)
_unreceipted = Gauge(
    "slipway_outbox_unreceipted",
    "Messages on the bus whose consumer has not said it has them",
    registry=telemetry.registry,
)
_again = Counter(
    "slipway_outbox_published_again", "Messages published again for want of a receipt", registry=telemetry.registry
)
_published = Counter("slipway_outbox_published", "Messages the bus confirmed", ["topic"], registry=telemetry.registry)
_failures = Counter("slipway_outbox_failures", "Messages the bus did not take", ["topic"], registry=telemetry.registry)

_CHANNEL = "slipway_outbox"
_BATCH = 200
_SWEEP = 5.0  # seconds; finds what a lost notification or a dead relay left behind
_PUBLISH_TIMEOUT = 10.0
_MOST_RETRY = 300.0  # seconds between attempts at a message that the bus refuses by itself
_BROKER_RETRY_MOST = 5.0  # seconds between attempts while the broker is away
_RECEIPT_WAIT = 60.0  # seconds for a receipt before the message is published again; doubled each time
_RECEIPT_WAIT_MOST = 3600.0
_REMEMBERED = 200_000  # messages of this relay that wait for receipts; others are found when they are published again

# TimeoutError is an OSError.
_INTERRUPTIONS = (
    Unavailable,
    WriteConflict,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# Nobody waits for the disk when a relay commits: what a crash takes back is published again, as ever.
_CLAIM = """
SELECT id, message_id, topic, ordering_key, tenant, subject, headers, body, receipt
FROM outbox CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) AS lazily
WHERE published_time IS NULL AND next_attempt_time <= now() ORDER BY id LIMIT $1 FOR UPDATE OF outbox SKIP LOCKED
"""
_AWAIT_RECEIPT = """
UPDATE outbox SET attempts = attempts + 1, published_time = now(),
    next_attempt_time = now() + make_interval(secs => least($2, $3 * power(2, least(attempts, 20))))
WHERE id = ANY($1)
"""
_AGAIN = """
UPDATE outbox SET published_time = NULL WHERE id IN (
    SELECT id FROM outbox WHERE published_time IS NOT NULL AND next_attempt_time <= now()
    ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED)
RETURNING id
"""
_POSTPONE = """
UPDATE outbox SET attempts = attempts + 1,
    next_attempt_time = now() + make_interval(secs => least($2, power(2, least(attempts, 20))))
WHERE id = ANY($1)
"""


class Outbox:
    """The outbox of one database and the relay that empties it."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        bus: Bus,
        keys: SubjectKeys,
        *,
        receipt_wait: float = _RECEIPT_WAIT,
        gather: float = 0.0,
    ) -> None:
        """``receipt_wait``: seconds after which a message without a receipt is published again. ``gather``: seconds for
        which messages may wait for others to go with: for services whose messages are many and wake nobody."""
        self._pool = pool
        self._bus = bus
        self._keys = keys
        self._receipt_wait = receipt_wait
        self._gather = gather
        self._wake = asyncio.Event()
        self._relaying = False
        # Published by this relay and not receipted: message id to row.
        self._out: dict[str, int] = {}

    async def add(
        self,
        conn: Any,
        topic: str,
        body: bytes,
        *,
        message_id: str,
        tenant: str,
        subject: str = "",
        headers: Mapping[str, str] | None = None,
        ordering_key: str = "",
        receipt: bool = False,
    ) -> None:
        """Add a message in the transaction of ``conn``; the current trace goes with it.

        ``subject`` is the person whom ``body`` is about: it is then encrypted at rest. Messages of one ``ordering_key``
        go out in the order in which they were added. With ``receipt`` the message stays until its consumer has
        committed it.
        """
        stored = await self._keys.encrypt(conn, tenant, subject, body) if subject else body
        await conn.execute(
            "INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body, receipt)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            message_id,
            topic,
            ordering_key,
            tenant,
            subject,
            json.dumps({**telemetry.inject(), **(headers or {})}),
            stored,
            receipt,
        )
        await self.added(conn)

    async def add_all(self, conn: Any, messages: Sequence[Outgoing]) -> None:
        """As ``add``, for many messages in one statement."""
        if not messages:
            return
        trace = telemetry.inject()
        sealers: dict[tuple[str, str], Callable[[bytes], bytes]] = {}
        rows: list[tuple[Any, ...]] = []
        for one in messages:
            stored, who = one.body, (one.tenant, one.subject)
            if one.subject:
                if who not in sealers:
                    sealers[who] = await self._keys.sealer(conn, *who)
                stored = sealers[who](stored)
            headers = json.dumps({**trace, **one.headers})
            rows.append(
                (one.message_id, one.topic, one.ordering_key, one.tenant, one.subject, headers, stored, one.receipt)
            )
        await conn.execute(
            "INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body, receipt)"
            " SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[],"
            " $7::bytea[], $8::bool[])",
            *(list(column) for column in zip(*rows, strict=True)),
        )
        await self.added(conn)

    async def added(self, conn: Any) -> None:
        """Rows were added by other means than `add`: wakes the relay when the transaction of ``conn`` commits."""
        # NOTIFY makes commits of the whole database queue behind one lock, flush included. So it is used only where
        # this process cannot wake the relay by itself.
        if not conn.is_in_transaction():
            await self.committed(conn)  # the statement was a transaction of its own
        elif not (self._relaying and after_commit(conn, self._wake.set)):
            await conn.execute(f"NOTIFY {_CHANNEL}")

    async def committed(self, conn: Any) -> None:
        """Rows were added by other means than `add`, and have committed: wakes the relay."""
        if self._relaying:
            self._wake.set()
        else:
            await conn.execute(f"NOTIFY {_CHANNEL}")

    async def relay(self) -> None:
        """Publish what is in the outbox, until cancelled. Goes on over restarts of database and broker."""
        self._relaying = True
        retry = sweep = 0.0
        receiving = asyncio.create_task(self._receive())
        try:
            while True:
                _heed_cancellation()
                try:
                    async with self._listening() as lost:
                        while not lost.is_set():
                            _heed_cancellation()
                            if time.monotonic() > sweep:
                                sweep = time.monotonic() + _SWEEP
                                await self._publish_again()
                                await self._measure()
                            if await self._drain():
                                retry = 0.0
                            if not lost.is_set():  # it may have happened while the batch cleared the wake-up
                                await self._wait(_SWEEP)
                            if self._gather:
                                await asyncio.sleep(self._gather)
                except _INTERRUPTIONS as error:
                    _heed_cancellation()
                    retry = min(max(retry * 2, 0.2), _BROKER_RETRY_MOST)
                    _log.warning("outbox.interrupted", error=type(error).__name__, reason=str(error), retry_in=retry)
                    await asyncio.sleep(retry)
        finally:
            self._relaying = False
            receiving.cancel()
            await asyncio.wait({receiving})

    async def _receive(self) -> None:
        """Remove what its consumers have, until cancelled."""
        while True:
            try:
                async with self._bus.subscribe(RECEIPTS) as receipts:
                    async for data in receipts:
                        rows = sorted(
                            self._out.pop(message_id) for message_id in json.loads(data) if message_id in self._out
                        )
                        if rows:
                            await self._pool.execute("DELETE FROM outbox WHERE id = ANY($1)", rows)
            except _INTERRUPTIONS as error:
                _heed_cancellation()
                _log.info("outbox.receipts_interrupted", error=type(error).__name__)
            _heed_cancellation()
            await asyncio.sleep(1)

    async def _publish_again(self) -> None:
        rows = await self._pool.fetch(_AGAIN)
        if rows:
            _again.inc(len(rows))
            _log.warning("outbox.published_again", messages=len(rows))

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncGenerator[asyncio.Event]:
        """Wake the relay by notifications; the event is set when the connection that listens was lost."""
        connection = await self._pool.acquire(timeout=10)
        lost = asyncio.Event()

        def on_notify(*_: object) -> None:
            self._wake.set()

        def on_termination(*_: object) -> None:
            lost.set()
            self._wake.set()

        try:
            await connection.add_listener(_CHANNEL, on_notify)
            connection.add_termination_listener(on_termination)
            yield lost
        finally:
            # A lost connection is no longer the pool's, and refuses all of this; that must not hide why we leave.
            try:
                with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    connection.remove_termination_listener(on_termination)
                    await connection.remove_listener(_CHANNEL, on_notify)
            finally:
                await self._pool.release(connection)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _drain(self) -> int:
        """Publish batches until none is due; answers with the number of messages confirmed."""
        total = 0
        while True:
            self._wake.clear()
            try:
                claimed, confirmed = await self._publish_batch()
            except Unavailable:
                # The broker is away: that is when the backlog is worth watching.
                await self._measure()
                raise
            total += confirmed
            if claimed < _BATCH:
                return total

    async def _publish_batch(self) -> tuple[int, int]:
        async with transaction(self._pool) as conn:
            rows = await conn.fetch(_CLAIM, _BATCH)
            if not rows:
                return 0, 0
            messages = [await self._message(conn, row) for row in rows]
            # A receipt may come before this transaction ends; its deletion then waits for the row.
            kept = {row["id"]: row["message_id"] for row in rows if row["receipt"]}
            if len(self._out) < _REMEMBERED:
                self._out.update((message_id, row_id) for row_id, message_id in kept.items())
            outcomes = await self._publish_all(messages)
            done = [row["id"] for row, outcome in zip(rows, outcomes, strict=True) if outcome is None]
            refused = [
                row["id"]
                for row, outcome in zip(rows, outcomes, strict=True)
                if outcome is not None and not isinstance(outcome, Unavailable)
            ]
            if gone := [row_id for row_id in done if row_id not in kept]:
                await conn.execute("DELETE FROM outbox WHERE id = ANY($1)", gone)
            if out := [row_id for row_id in done if row_id in kept]:
                await conn.execute(_AWAIT_RECEIPT, out, _RECEIPT_WAIT_MOST, self._receipt_wait)
            if refused:
                await conn.execute(_POSTPONE, refused, _MOST_RETRY)
        away = next((outcome for outcome in outcomes if isinstance(outcome, Unavailable)), None)
        if away is not None:
            raise away
        return len(rows), len(done)

    async def _publish_all(self, messages: Sequence[Message]) -> list[Exception | None]:
        outcomes: list[Exception | None]
        try:
            async with asyncio.timeout(_PUBLISH_TIMEOUT):
                outcomes = await self._bus.publish_all(messages)
        except (TimeoutError, OSError):
            outcomes = [Unavailable("the bus did not confirm in time")] * len(messages)
        for message, outcome in zip(messages, outcomes, strict=True):
            if outcome is None:
                _published.labels(message.topic).inc()
                continue
            _failures.labels(message.topic).inc()
            if not isinstance(outcome, Unavailable):
                _log.error("outbox.refused", message_id=message.id, topic=message.topic, exc_info=outcome)
        return outcomes

    async def _message(self, conn: Any, row: Any) -> Message:
        headers: dict[str, str] = json.loads(row["headers"])
        body: bytes = row["body"]
        if row["subject"]:
            try:
                body = await self._keys.decrypt(conn, row["tenant"], row["subject"], body)
            except SubjectErased:
                headers["erased"] = "true"
                body = json.dumps({"erased": True, "id": row["message_id"]}).encode()
        return Message(row["message_id"], row["topic"], body, row["tenant"], headers)

    async def _measure(self) -> None:
        row = await self._pool.fetchrow(
            "SELECT count(*) FILTER (WHERE published_time IS NULL) AS waiting, count(published_time) AS out,"
            " now() - min(create_time) FILTER (WHERE published_time IS NULL) AS age FROM outbox"
        )
        _backlog.set(row["waiting"])
        _unreceipted.set(row["out"])
        _oldest.set(row["age"].total_seconds() if row["age"] else 0.0)


def _heed_cancellation() -> None:
    """Libraries may hide that the task was cancelled: asyncpg behind what a lost connection raises, redis behind an
    answer that came at the same moment."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
