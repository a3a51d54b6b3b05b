"""Budgets in PostgreSQL: what they say, and what happened in their current periods. books_store moves the money."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Any

import asyncpg
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.policy import PolicyDecision
from slipway_chassis.postgres import transaction

from slipway_router.budgets import Balance, Budget, BudgetUnknown, Period, Scope, Terms

_MOST_BALANCES = 100
_COLUMNS = "budget_key, name, scope, scope_value, period, limit_usd, soft_limit_usd, create_time, update_time"
_PAGE = f"SELECT {_COLUMNS} FROM budget WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3"  # noqa: S608
_ONE = f"SELECT {_COLUMNS} FROM budget WHERE tenant = $1 AND name = $2"  # noqa: S608
_INSERT = f"""
INSERT INTO budget (tenant, name, scope, scope_value, period, limit_usd, soft_limit_usd)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {_COLUMNS}
"""  # noqa: S608
_CHANGE = f"""
UPDATE budget SET limit_usd = $2, soft_limit_usd = $3, update_time = now() WHERE budget_key = $1 RETURNING {_COLUMNS}
"""  # noqa: S608
# Of each budget the counters of its current period, the most spent first.
_BALANCES = """
SELECT b.budget_key, k.*
FROM budget b, LATERAL (
    SELECT c.value, c.spent, c.reserved, c.period_start, w.counter_id IS NOT NULL AS warned
    FROM budget_counter c LEFT JOIN budget_warning w USING (counter_id)
    WHERE c.budget_key = b.budget_key AND c.tenant = b.tenant
      AND c.period_start = CASE b.period WHEN 'day' THEN date_trunc('day', now() AT TIME ZONE 'UTC')::date
                                         WHEN 'month' THEN date_trunc('month', now() AT TIME ZONE 'UTC')::date
                                         ELSE date '1970-01-01' END
    ORDER BY c.spent + c.reserved DESC, c.value LIMIT $2) k
WHERE b.budget_key = ANY($1)
"""
# A soft limit that was raised above what is spent is told of again when it is reached.
_UNWARN = """
DELETE FROM budget_warning w USING budget_counter c
WHERE w.counter_id = c.counter_id AND c.budget_key = $1 AND ($2::numeric IS NULL OR c.spent < $2)
"""


class BudgetStore:
    """The budgets of the router's database."""

    def __init__(self, pool: asyncpg.Pool, evidence: Evidence) -> None:
        self._pool = pool
        self._evidence = evidence

    async def page(self, tenant: str, *, after: str, limit: int) -> list[Budget]:
        """Budgets of `tenant` by name, after the one named."""
        async with transaction(self._pool) as connection:
            return await _with_balances(connection, await connection.fetch(_PAGE, tenant, after, limit))

    async def get(self, tenant: str, name: str) -> Budget:
        """One budget. Raises BudgetUnknown."""
        async with transaction(self._pool) as connection:
            return await _read(connection, tenant, name)

    async def put(self, caller: Caller, name: str, terms: Terms, policy: PolicyDecision) -> tuple[Budget, bool]:
        """Make the budget or change it; True if there was none. Another scope or period starts it from nothing."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_ONE + " FOR UPDATE", caller.tenant, name)
            before = _terms(row) if row else None
            if before == terms:
                return await _read(connection, caller.tenant, name), False
            if (
                row
                and before
                and (before.scope, before.value, before.period)
                == (
                    terms.scope,
                    terms.value,
                    terms.period,
                )
            ):
                row = await connection.fetchrow(_CHANGE, row["budget_key"], terms.limit, terms.soft_limit)
                await connection.execute(_UNWARN, row["budget_key"], terms.soft_limit)
            else:
                if row:
                    await _remove(connection, row["budget_key"])
                row = await connection.fetchrow(
                    _INSERT,
                    caller.tenant,
                    name,
                    terms.scope,
                    terms.value,
                    terms.period,
                    terms.limit,
                    terms.soft_limit,
                )
            await self._record(connection, caller, "budget.updated", name, before, terms, policy)
            return (await _with_balances(connection, [row]))[0], before is None

    async def delete(self, caller: Caller, name: str, policy: PolicyDecision) -> None:
        """Remove the budget. Raises BudgetUnknown."""
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_ONE + " FOR UPDATE", caller.tenant, name)
            if row is None:
                raise BudgetUnknown(f"there is no budget {name}")
            await _remove(connection, row["budget_key"])
            await self._record(connection, caller, "budget.deleted", name, _terms(row), None, policy)

    async def _record(
        self,
        connection: Any,
        caller: Caller,
        kind: str,
        name: str,
        before: Terms | None,
        after: Terms | None,
        policy: PolicyDecision,
    ) -> None:
        sealed = self._evidence.seal(
            kind,
            caller=caller,
            subject=caller.subject,
            resource=f"budget/{name}",
            data={"before": _facts(before), "after": _facts(after)},
            time=datetime.now(UTC),
            policy=policy,
        )
        await self._evidence.record(connection, sealed, subject=caller.subject)


async def _read(connection: Any, tenant: str, name: str) -> Budget:
    row = await connection.fetchrow(_ONE, tenant, name)
    if row is None:
        raise BudgetUnknown(f"there is no budget {name}")
    return (await _with_balances(connection, [row]))[0]


async def _remove(connection: Any, key: int) -> None:
    # Reservations that name the counters find none: nothing is left to be counted. Locked in the order in which calls
    # lock them.
    await connection.execute("DELETE FROM budget WHERE budget_key = $1", key)
    await connection.execute("SELECT FROM budget_counter WHERE budget_key = $1 ORDER BY counter_id FOR UPDATE", key)
    await connection.execute("DELETE FROM budget_counter WHERE budget_key = $1", key)


async def _with_balances(connection: Any, rows: Sequence[Any]) -> list[Budget]:
    keys = [row["budget_key"] for row in rows]
    balances: dict[int, list[Balance]] = {key: [] for key in keys}
    periods = {row["budget_key"]: Period(row["period"]) for row in rows}
    for row in await connection.fetch(_BALANCES, keys, _MOST_BALANCES):
        start, end = bounds(periods[row["budget_key"]], row["period_start"])
        balances[row["budget_key"]].append(
            Balance(row["value"], row["spent"], row["reserved"], start, end, row["warned"])
        )
    return [
        Budget(row["name"], _terms(row), row["create_time"], row["update_time"], tuple(balances[row["budget_key"]]))
        for row in rows
    ]


def bounds(period: Period, first: date) -> tuple[datetime | None, datetime | None]:
    """Start and end of the period whose first day is `first`; None when it never ends."""
    start = datetime.combine(first, time(), UTC)
    match period:
        case Period.TOTAL:
            return None, None
        case Period.DAY:
            return start, datetime.fromtimestamp(start.timestamp() + 86_400, UTC)
        case Period.MONTH:
            return start, start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def _terms(row: Any) -> Terms:
    return Terms(
        Scope(row["scope"]), row["scope_value"], Period(row["period"]), row["limit_usd"], row["soft_limit_usd"]
    )


def _facts(terms: Terms | None) -> dict[str, str | None] | None:
    if terms is None:
        return None
    return {
        "scope": terms.scope,
        "scope_value": terms.value,
        "period": terms.period,
        "limit_usd": None if terms.limit is None else format(terms.limit, "f"),
        "soft_limit_usd": None if terms.soft_limit is None else format(terms.soft_limit, "f"),
    }
