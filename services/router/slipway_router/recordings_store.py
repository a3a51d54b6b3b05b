"""Recordings in PostgreSQL, sealed under the key of the subject who asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
from slipway_chassis.caller import Caller
from slipway_chassis.crypto import SubjectErased, SubjectKeys
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import transaction

from slipway_router.recordings import RecordedCall, Recording
from slipway_router.store import spent_of

_log = get_logger(__name__)
_KEPT = "30 days"
_SWEEP_SECONDS = 3600.0
_NEWEST = """
SELECT r.request_id, r.subject, r.sealed, u.catalogue_model, u.latency_ms, u.input_tokens, u.cached_input_tokens,
       u.output_tokens, u.reasoning_tokens, u.cache_write_tokens, u.image_tokens, u.cost_usd, u.estimated, u.cached
FROM recorded_call r,
     LATERAL (SELECT * FROM model_usage m
              WHERE m.tenant = r.tenant AND m.request_id = r.request_id AND m.outcome = 'ok' LIMIT 1) u
WHERE r.tenant = $1 AND ($2 = '' OR r.scope = $2)
ORDER BY r.record_time DESC LIMIT $3
"""


class PostgresRecordings:
    """The table recorded_call."""

    def __init__(self, pool: asyncpg.Pool, keys: SubjectKeys, flush: Callable[[], Awaitable[None]]) -> None:
        """`flush` waits until the calls that have ended in this process are written."""
        self._pool = pool
        self._keys = keys
        self._flush = flush

    async def add(self, caller: Caller, request_id: str, scope: str, raw: bytes) -> None:
        """Keep a recording; a request id that is known already keeps its first one. Raises StoreUnavailable."""
        async with transaction(self._pool) as connection:
            sealed = await self._keys.encrypt(connection, caller.tenant, caller.subject, raw)
            await connection.execute(
                "INSERT INTO recorded_call (tenant, request_id, scope, subject, sealed) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT DO NOTHING",
                *(caller.tenant, request_id, scope, caller.subject, sealed),
            )

    async def newest(self, tenant: str, scope: str, limit: int) -> AsyncIterator[RecordedCall]:
        """The newest recordings of `tenant` on `scope` (empty: on any); those of erased subjects are left out."""
        await self._flush()
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_NEWEST, tenant, scope, limit)
        for row in rows:
            try:
                raw = await self._keys.decrypt(self._pool, tenant, row["subject"], row["sealed"])
            except SubjectErased:
                continue
            yield RecordedCall(
                request_id=row["request_id"],
                recording=Recording.decode(raw),
                catalogue_model=row["catalogue_model"],
                spent=spent_of(row),
                latency_ms=row["latency_ms"],
            )

    async def sweep(self) -> None:
        """Delete recordings that are too old, hourly, until cancelled."""
        while True:
            async with transaction(self._pool) as connection:
                status = await connection.execute(
                    f"DELETE FROM recorded_call WHERE record_time < now() - interval '{_KEPT}'"  # noqa: S608 - a constant
                )
            if status != "DELETE 0":
                _log.info("recordings.pruned", status=status)
            await asyncio.sleep(_SWEEP_SECONDS)
