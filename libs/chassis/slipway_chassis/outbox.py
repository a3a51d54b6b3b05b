"""Transactional outbox: messages commit with the change they tell of, and a relay brings them to the bus.

At least once: a relay that dies between the broker's confirmation and the deletion of the row publishes again, with the
same message id. Rows of one ordering key are published one after the other; that is order at best effort, for two
relays may hold neighbouring rows.

Bodies with a subject lie encrypted under the subject's key and are opened when they are published. If the subject was
erased meanwhile, the message still goes out, so that nobody waits for it in vain: with its headers, the header
``erased`` = ``true``, and the body ``{"erased": true, "id": <message id>}``.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import asyncpg
from prometheus_client import Counter, Gauge

from slipway_chassis import telemetry
from slipway_chassis.bus import Bus, Message
from slipway_chassis.crypto import SubjectErased, SubjectKeys
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import after_commit, transaction

_log = get_logger(__name__)
_backlog = Gauge("slipway_outbox_backlog", "Messages that wait for the bus", registry=telemetry.registry)
_oldest = Gauge("slipway_outbox_oldest_seconds", "Age of the oldest waiting message", registry=telemetry.registry)
_published = Counter("slipway_outbox_published", "Messages the bus confirmed", ["topic"], registry=telemetry.registry)
_failures = Counter("slipway_outbox_failures", "Messages the bus did not take", ["topic"], registry=telemetry.registry)

_CHANNEL = "slipway_outbox"
_BATCH = 100
_SWEEP = 5.0  # seconds; finds what a lost notification or a dead relay left behind
_PUBLISH_TIMEOUT = 10.0
_BATCH_TIME = 20.0  # seconds after which a batch begins no more messages: its transaction must not stay open for long
_MOST_RETRY = 300.0  # seconds between attempts at a message that the bus refuses by itself
_BROKER_RETRY_MOST = 5.0  # seconds between attempts while the broker is away

# TimeoutError is an OSError.
_INTERRUPTIONS = (Unavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

_CLAIM = """
SELECT id, message_id, topic, ordering_key, tenant, subject, headers, body
FROM outbox WHERE next_attempt_time <= now() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
_POSTPONE = """
UPDATE outbox SET attempts = attempts + 1,
    next_attempt_time = now() + make_interval(secs => least($2, power(2, least(attempts, 20))))
WHERE id = ANY($1)
"""


class Outbox:
    """The outbox of one database and the relay that empties it."""

    def __init__(self, pool: asyncpg.Pool, bus: Bus, keys: SubjectKeys) -> None:
        self._pool = pool
        self._bus = bus
        self._keys = keys
        self._wake = asyncio.Event()
        self._relaying = False

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
    ) -> None:
        """Add a message in the transaction of ``conn``; the current trace goes with it.

        ``subject`` is the person whom ``body`` is about: it is then encrypted at rest. Messages of one ``ordering_key``
        go out in the order in which they were added.
        """
        stored = await self._keys.encrypt(conn, tenant, subject, body) if subject else body
        await conn.execute(
            "INSERT INTO outbox (message_id, topic, ordering_key, tenant, subject, headers, body)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7)",
            message_id,
            topic,
            ordering_key,
            tenant,
            subject,
            json.dumps({**telemetry.inject(), **(headers or {})}),
            stored,
        )
        # NOTIFY makes commits of the whole database queue behind one lock, flush included. So it is used only where
        # this process cannot wake the relay by itself.
        if not (self._relaying and after_commit(conn, self._wake.set)):
            await conn.execute(f"NOTIFY {_CHANNEL}")

    async def relay(self) -> None:
        """Publish what is in the outbox, until cancelled. Goes on over restarts of database and broker."""
        self._relaying = True
        retry = 0.0
        try:
            while True:
                try:
                    async with self._listening() as lost:
                        while not lost.is_set():
                            if await self._drain():
                                retry = 0.0
                            await self._wait(_SWEEP)
                except _INTERRUPTIONS as error:
                    retry = min(max(retry * 2, 0.2), _BROKER_RETRY_MOST)
                    _log.warning("outbox.interrupted", error=type(error).__name__, reason=str(error), retry_in=retry)
                    await asyncio.sleep(retry)
        finally:
            self._relaying = False

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
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.remove_termination_listener(on_termination)
                await connection.remove_listener(_CHANNEL, on_notify)
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
                await self._measure()
                return total

    async def _publish_batch(self) -> tuple[int, int]:
        async with transaction(self._pool) as conn:
            rows = await conn.fetch(_CLAIM, _BATCH)
            if not rows:
                return 0, 0
            messages = [await self._message(conn, row) for row in rows]
            chains: dict[str, list[int]] = {}
            for position, row in enumerate(rows):
                key = f"key:{row['ordering_key']}" if row["ordering_key"] else f"id:{row['id']}"
                chains.setdefault(key, []).append(position)
            results = await asyncio.gather(*(self._publish_chain(chain, messages) for chain in chains.values()))
            done = [rows[position]["id"] for confirmed, _, _ in results for position in confirmed]
            refused = [rows[position]["id"] for _, failed, _ in results for position in failed]
            if done:
                await conn.execute("DELETE FROM outbox WHERE id = ANY($1)", done)
            if refused:
                await conn.execute(_POSTPONE, refused, _MOST_RETRY)
        away = next((error for _, _, error in results if error is not None), None)
        if away is not None:
            raise away
        return len(rows), len(done)

    async def _publish_chain(
        self, chain: Sequence[int], messages: Sequence[Message]
    ) -> tuple[list[int], list[int], Unavailable | None]:
        """Publish messages one after the other; stops at the first that fails. Answers with positions confirmed and
        refused, and the error if the broker is away."""
        confirmed: list[int] = []
        stop = time.monotonic() + _BATCH_TIME
        for position in chain:
            if time.monotonic() > stop:
                break
            message = messages[position]
            try:
                async with asyncio.timeout(_PUBLISH_TIMEOUT):
                    await self._bus.publish(message)
            except (Unavailable, TimeoutError, OSError) as error:
                _failures.labels(message.topic).inc()
                away = error if isinstance(error, Unavailable) else Unavailable("the bus did not confirm in time")
                return confirmed, [], away
            except Exception as error:  # noqa: BLE001 - a message the bus cannot take must not stop the others
                _failures.labels(message.topic).inc()
                _log.error("outbox.refused", message_id=message.id, topic=message.topic, exc_info=error)
                return confirmed, [position], None
            _published.labels(message.topic).inc()
            confirmed.append(position)
        return confirmed, [], None

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
        row = await self._pool.fetchrow("SELECT count(*) AS waiting, now() - min(create_time) AS age FROM outbox")
        _backlog.set(row["waiting"])
        _oldest.set(row["age"].total_seconds() if row["age"] else 0.0)
