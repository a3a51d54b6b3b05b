"""How long finished runs are kept. Their journals lie in partitions of a month each, which are dropped whole.

What the audit log holds of a run stays there.
"""

import asyncio
from collections.abc import Mapping

import asyncpg
from slipway_chassis.errors import Unavailable
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import transaction

from slipway_orchestrator.store.metrics import EXPIRED, MONTHS_DROPPED

_log = get_logger(__name__)
_EVERY = 3600.0  # seconds
_RUNS, _EVENTS = 500, 5000
_PATIENCE = 35
"""Days for which events of runs that are gone wait for their partition to be dropped, before they are deleted."""
_LOCK = 0x51199A8
# Journals of version 1 share values across months: these stay as long as any run of that time may still be there.
_DELETE_OLD_PAYLOADS = """
DELETE FROM payload WHERE (SELECT min(create_time) FROM run) > (
    SELECT apply_time + interval '30 days' FROM slipway_migration WHERE name = '0006_journal.sql')
"""


def rules_of(days: Mapping[str, int]) -> tuple[list[str], list[str], list[int]]:
    """Tenants, states and days of rules such as `{"*": 90, "*/FAILED": 365, "acme": 30}`."""
    tenants: list[str] = []
    states: list[str] = []
    for scope in days:
        tenant, _, state = scope.partition("/")
        tenants.append(tenant)
        states.append(state or "*")
    return tenants, states, list(days.values())


class Retention:
    """Deletes finished runs whose time is over, and makes and drops the partitions of journals."""

    def __init__(self, pool: asyncpg.Pool, days: Mapping[str, int]) -> None:
        """`days` by tenant, `tenant/STATE` or `*`: what is not named is kept."""
        self._pool = pool
        self._rules = rules_of(days)

    async def run(self) -> None:
        """Look every hour, until cancelled. One process at a time does."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                _log.warning("retention.no_database", reason=error.reason)
            await asyncio.sleep(_EVERY)

    async def sweep(self) -> None:
        """Do what is due."""
        async with transaction(self._pool) as conn:
            if not await conn.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return
            await conn.execute(
                "SELECT make_journal_partition((date_trunc('month', now() AT TIME ZONE 'UTC')"
                " + ahead * interval '1 month')::date) FROM generate_series(0, 2) AS ahead"
            )
        if not self._rules[0]:
            return
        await self._expire()
        await self._drop()
        while await self._delete_left() == _EVENTS:
            pass
        async with transaction(self._pool) as conn:
            await conn.execute(_DELETE_OLD_PAYLOADS)

    async def _expire(self) -> None:
        gone = 0
        while True:
            async with transaction(self._pool) as conn:
                deleted = await conn.fetchval("SELECT expire_runs($1, $2, $3, $4)", *self._rules, _RUNS)
            gone += deleted
            EXPIRED.inc(deleted)
            if deleted < _RUNS:
                break
        if gone:
            _log.info("retention.expired", runs=gone)

    async def _drop(self) -> None:
        async with transaction(self._pool) as conn:
            months = await conn.fetch("SELECT month FROM empty_journal_months() AS month")
        for (month,) in months:
            async with transaction(self._pool) as conn:
                try:
                    await conn.execute("SELECT drop_journal_partition($1)", month)
                except asyncpg.LockNotAvailableError:
                    _log.info("retention.later", month=f"{month:%Y-%m}")
                    continue
                except asyncpg.UndefinedTableError:  # another process was quicker
                    continue
            MONTHS_DROPPED.inc()
            _log.info("retention.dropped", month=f"{month:%Y-%m}")

    async def _delete_left(self) -> int:
        async with transaction(self._pool) as conn:
            return await conn.fetchval(
                "SELECT delete_left_events($1, $2, $3, $4, $5)", *self._rules, _PATIENCE, _EVENTS
            )
