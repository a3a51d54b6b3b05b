"""What the chassis tables keep, and for how long. One background coroutine per database prunes them."""

import asyncio
from typing import Any

import asyncpg

from slipway_chassis.logs import get_logger

_log = get_logger(__name__)
_EVERY = 3600.0  # seconds
_BATCH = 5000

# The longest that a duplicate is still recognised.
_RULES = {
    # A client repeats a request within minutes; 24 hours are the documented promise.
    "idempotency": "create_time < now() - interval '24 hours'",
    # Brokers redeliver within hours, dead letters are replayed within weeks.
    "inbox": "create_time < now() - interval '30 days'",
    # A run asks again for an effect in doubt as soon as it goes on; parked runs have no effect in doubt.
    "effect": "create_time < now() - interval '30 days' AND state <> 'RUNNING'",
}


async def prune(conn: Any) -> dict[str, int]:
    """Delete what is older than its time, in small batches; answers with rows deleted per table that exists."""
    deleted: dict[str, int] = {}
    for table, rule in _RULES.items():
        if await conn.fetchval("SELECT to_regclass($1)", table) is None:
            continue
        deleted[table] = 0
        while True:
            status = await conn.execute(
                f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("  # noqa: S608 - names and rules are the constants above
                f"SELECT ctid FROM {table} WHERE {rule} LIMIT {_BATCH}))"
            )
            count = int(status.split()[-1])
            deleted[table] += count
            if count < _BATCH:
                break
    return deleted


async def sweep(pool: asyncpg.Pool) -> None:
    """Prune hourly until cancelled: a background coroutine for ``run_service``."""
    while True:
        deleted = await prune(pool)
        if any(deleted.values()):
            _log.info("retention.pruned", **deleted)
        await asyncio.sleep(_EVERY)
