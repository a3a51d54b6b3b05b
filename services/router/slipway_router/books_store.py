"""The books in PostgreSQL: reservations, budget counters, usage rows and audit events; see migrations/0002_budgets.sql.

Every statement that touches a budget counter is a transaction of its own: a router that is frozen in the middle holds
no lock that another one waits for.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import StoreUnavailable, domain_errors, transaction

from slipway_router import metrics
from slipway_router.books import ClosedAccount, Refusal, Reservation
from slipway_router.budgets import Scope
from slipway_router.call_record import CallRecord
from slipway_router.decision import recorded

_log = get_logger(__name__)
_RESERVE = f"SELECT router_reserve({', '.join(f'${n}' for n in range(1, 17))}) AS refusals"
# Tells once of a counter that has reached its soft limit: who comes second gets no row.
_WARN = """
WITH warned AS (INSERT INTO budget_warning (counter_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING counter_id)
SELECT b.tenant, b.name, b.scope, c.value, b.period, c.period_start, b.soft_limit_usd, b.limit_usd, c.spent
FROM warned JOIN budget_counter c USING (counter_id) JOIN budget b USING (budget_key)
"""


class Lane:
    """One connection that is kept for one kind of statement: the pool's own care costs a round trip each time."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._connection: Any = None
        self._busy = asyncio.Lock()

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Rows of one statement, committed. Raises StoreUnavailable, WriteConflict."""
        async with self._busy:
            with domain_errors():
                return await self._fetch(query, arguments)

    async def _fetch(self, query: str, arguments: Sequence[Any]) -> list[Any]:
        if self._connection is None:
            self._connection = await self._pool.acquire(timeout=10)
        try:
            return await self._connection.fetch(query, *arguments)
        except asyncpg.InterfaceError as error:
            # What asyncpg says of a connection that was lost between two statements.
            await self.close()
            raise StoreUnavailable("the database is unavailable", retry_after=1) from error
        except BaseException:
            # It may be lost; the pool knows, and hands out another one.
            await self.close()
            raise

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._pool.release(connection)


class PostgresBooks:
    """The books of one router process."""

    def __init__(self, pool: asyncpg.Pool, evidence: Evidence) -> None:
        self._pool = pool
        self._evidence = evidence
        self._reserving = Lane(pool)
        self._counting = Lane(pool)
        self.instance = uuid4()

    async def reserve(self, reservations: Sequence[Reservation]) -> Sequence[Refusal | None]:
        """Reserve for each, in order; what refused each, or None. Raises StoreUnavailable."""
        ended = [pair for item in reservations for pair in item.ended]
        rows = await self._reserving.fetch(
            _RESERVE,
            self.instance,
            *(list(column) for column in zip(*map(_reservation, reservations), strict=True)),
            [hold_id for hold_id, _ in ended],
            [cost for _, cost in ended],
        )
        return [json.loads(refusal) if refusal else None for refusal in rows[0]["refusals"]]

    async def dispatch(self, hold_id: UUID) -> bool:
        """Note that the attempt is sent; False if its reservation is gone."""
        rows = await self._reserving.fetch(
            "UPDATE reservation SET state = 'dispatched' WHERE reservation_id = $1 AND state = 'reserved' RETURNING 1",
            hold_id,
        )
        return bool(rows)

    async def settle(self, accounts: Sequence[ClosedAccount]) -> Sequence[None]:
        """Write the calls and their events, then bring the budgets' counters up to date. Raises StoreUnavailable."""
        calls = as_json([_account(account) for account in accounts])
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow("SELECT events, uncounted FROM router_settle($1)", calls)
            new = set(row["events"])
            await self._evidence.record_all(
                connection,
                [
                    (account.event, account.record.caller.subject)
                    for account in accounts
                    if account.event.event_id in new
                ],
            )
        if row["uncounted"]:
            await self.count(row["uncounted"])
        return [None] * len(accounts)

    async def count(self, holds: Sequence[UUID]) -> None:
        """Bring the counters of these reservations up to date; to do it twice does no harm. Tells of soft limits."""
        for row in await self._counting.fetch("SELECT counter_id FROM router_count($1)", list(holds)):
            await self._warn(row["counter_id"])

    async def _warn(self, counter: int) -> None:
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_WARN, counter)
            if row is None:
                return
            facts = {
                name: format(value, "f") if isinstance(value, Decimal) else str(value) for name, value in row.items()
            }
            caller = _router_for(row["tenant"])
            subject = row["value"] if row["scope"] == Scope.USER else caller.subject
            sealed = self._evidence.seal(
                "budget.soft_limit_reached",
                caller=caller,
                subject=subject,
                resource=f"budget/{row['name']}",
                data=facts,
                time=datetime.now(UTC),
            )
            await self._evidence.record(connection, sealed, subject=subject)
        metrics.soft_limits.inc()
        _log.warning("budget.soft_limit_reached", **facts)

    async def close(self) -> None:
        """Give connections back."""
        await self._reserving.close()
        await self._counting.close()


def caller_facts(caller: Caller) -> dict[str, Any]:
    """What must be known of a caller to write their call without them."""
    return {
        "subject": caller.subject,
        "kind": caller.kind,
        "act": caller.act,
        "roles": sorted(caller.roles),
        "token_id": caller.token_id,
        "owner": caller.owner,
    }


def _router_for(tenant: str) -> Caller:
    """The router's own principal, for what it finds out by itself."""
    nobody = frozenset[str]()
    return Caller("service:router", tenant, "service", nobody, nobody, None, None, "", datetime.now(UTC))


def _reservation(item: Reservation) -> tuple[Any, ...]:
    """The attempt as router_reserve takes it, one value for each of its arrays."""
    record, payers, hold = item.record, item.payers, item.hold
    call = {
        **caller_facts(record.caller),
        "operation": record.operation,
        "requested_model": record.requested_model,
        "task": record.task,
        "route": _route(record),
        "model": hold.model.name,
        "provider": hold.model.provider.name,
        "person": payers.person,
        "input_most": item.input_most,
        "output_most": item.output_most,
        "run_id": record.run_id,
        "root_run_id": record.root_run_id,
        "effect": record.effect.key if record.effect else None,
        "labels": dict(record.labels),
    }
    return (
        hold.hold_id,
        record.call_id,
        record.caller.tenant,
        record.request_id,
        payers.agent,
        payers.person,
        payers.key,
        payers.root_run,
        record.run_max_cost,
        hold.worst,
        "dispatched" if item.dispatched else "reserved",
        item.seconds,
        as_json(call),
    )


def _account(account: ClosedAccount) -> dict[str, Any]:
    record, caller, candidate = account.record, account.record.caller, account.record.candidate
    tokens = record.tokens
    usage = {
        "tenant": caller.tenant,
        "request_id": record.request_id,
        "end_time": record.end_time.isoformat(),
        "operation": record.operation,
        "subject": caller.subject,
        "person": account.payers.person,
        "act": caller.act,
        "run_id": record.run_id,
        "root_run_id": record.root_run_id,
        "task": record.task,
        "requested_model": record.requested_model,
        "route": _route(record),
        "catalogue_model": candidate.model.name if candidate else "",
        "returned_model": record.returned_model,
        "provider": candidate.model.provider.name if candidate else "",
        "input_tokens": tokens.input,
        "cached_input_tokens": tokens.cached_input,
        "cache_write_tokens": tokens.cache_write,
        "image_tokens": tokens.image,
        "output_tokens": tokens.output,
        "reasoning_tokens": tokens.reasoning,
        "cost_usd": str(record.cost),
        "estimated": record.estimated,
        "cached": record.cached,
        "attempts": record.attempts,
        "outcome": record.outcome,
        "latency_ms": record.latency_ms,
        "labels": dict(record.labels),
        "event_id": account.event.event_id,
        "decision": recorded(record.plan) if record.plan else None,
    }
    holds = [{"id": str(hold.hold_id), "cost": str(hold.cost), "state": "done"} for hold in record.holds]
    return {"usage": usage, "holds": holds}


def _route(record: CallRecord) -> str | None:
    return record.plan.route.name if record.plan and record.plan.route else None


def as_json(value: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> str:
    """JSON for the functions of the migration; dataclasses are objects."""
    # PostgreSQL's text holds no NUL; callers' own words may.
    return orjson.dumps(value).replace(rb"\u0000", rb"\ufffd").decode()
