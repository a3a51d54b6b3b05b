"""What dead replicas left behind: their reservations are released or billed.

A replica says every few seconds that it lives. What one held that fell silent, and whatever passed its own end, is an
orphan: an attempt that was not sent owes nothing; one that may have been sent is billed with its worst case, flagged as
estimated. Should the replica live after all and write the call, its own word replaces the estimate.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
from slipway_chassis.caller import Caller
from slipway_chassis.errors import Unavailable
from slipway_chassis.evidence import Evidence, SealedEvent
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import domain_errors, transaction

from slipway_router import metrics
from slipway_router.books_store import PostgresBooks, as_json
from slipway_router.evidence_data import MODEL_CALL

_log = get_logger(__name__)
ORPHANED = "ORPHANED"
"""Outcome of a call whose router died before it could write it."""
_BEATS = 5
"""Signs of life within the time after which a replica is taken for dead."""
_BATCH = 100
_LOCK = 0x5119B00C
_BEAT = """
INSERT INTO router_instance (instance) VALUES ($1) ON CONFLICT (instance) DO UPDATE SET seen_time = now()
"""
_FIND = """
SELECT r.call_id, count(*) AS attempts FROM reservation r LEFT JOIN router_instance i USING (instance)
WHERE r.state IN ('reserved', 'dispatched', 'settled')
GROUP BY r.call_id
HAVING bool_or(i.instance IS NULL OR i.seen_time < now() - make_interval(secs => $1)) OR max(r.expire_time) < now()
LIMIT $2
"""
_TAKE = """
SELECT reservation_id, call_id, tenant, request_id, state, worst_usd, cost_usd, call, create_time
FROM reservation WHERE call_id = ANY($1) AND state IN ('reserved', 'dispatched', 'settled')
ORDER BY reservation_id FOR UPDATE SKIP LOCKED
"""
# What the row of a call takes over as its reservation noted it.
_AS_NOTED = (
    "subject", "act", "person", "operation", "run_id", "root_run_id", "task", "requested_model", "route", "labels",
    "provider",
)  # fmt: skip
_UNCOUNTED = """
SELECT reservation_id FROM reservation
WHERE state = 'done' OR (state IN ('settled', 'expired') AND (held_usd <> 0 OR counted_usd <> cost_usd)) LIMIT 1000
"""
# Long after anybody could come back to correct them.
_PRUNE = (
    "DELETE FROM reservation WHERE state = 'expired' AND expire_time < now() - interval '1 day'",
    "DELETE FROM router_instance WHERE seen_time < now() - interval '1 day'",
    "DELETE FROM budget_counter WHERE update_time < now() - interval '400 days'",
    "DELETE FROM budget_warning WHERE counter_id NOT IN (SELECT counter_id FROM budget_counter)",
)


@dataclass(frozen=True, slots=True)
class _Orphan:
    """A call without a router: what is known of it, and what its attempts cost at most."""

    event: SealedEvent
    subject: str
    account: Mapping[str, Any]


class Orphans:
    """The signs of life of this replica, and the care for what others left."""

    def __init__(self, pool: asyncpg.Pool, books: PostgresBooks, evidence: Evidence, *, dead_after: float) -> None:
        """`dead_after` seconds without a sign of life a replica is taken for dead."""
        self._pool = pool
        self._books = books
        self._evidence = evidence
        self._dead_after = dead_after

    async def announce(self) -> None:
        """Say that this replica lives. Before its first reservation."""
        with domain_errors():
            await self._pool.execute(_BEAT, self._books.instance)

    async def watch(self) -> None:
        """Give signs of life and look after orphans, until cancelled."""
        while True:
            try:
                await self.announce()
                await self.sweep()
            except Unavailable as error:
                _log.warning("orphans.interrupted", cause=type(error.__cause__).__name__)
            await asyncio.sleep(self._dead_after / _BEATS)

    async def sweep(self) -> None:
        """Release or bill what is orphaned by now. Raises StoreUnavailable."""
        while await self._take() == _BATCH:
            pass
        with domain_errors():
            uncounted = await self._pool.fetch(_UNCOUNTED)
            for statement in _PRUNE:
                await self._pool.execute(statement)
        if uncounted:
            await self._books.count([row["reservation_id"] for row in uncounted])

    async def _take(self) -> int:
        async with transaction(self._pool) as connection:
            # One replica at a time: the others would only wait for its rows.
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return 0
            found = await connection.fetch(_FIND, self._dead_after, _BATCH)
            if not found:
                return 0
            attempts = {row["call_id"]: row["attempts"] for row in found}
            calls: dict[UUID, list[Any]] = {}
            for row in await connection.fetch(_TAKE, list(attempts)):
                calls.setdefault(row["call_id"], []).append(row)
            # Rows that are locked are being written by a router that was frozen in the middle: not orphans yet.
            calls = {call: rows for call, rows in calls.items() if len(rows) == attempts[call]}
            if not calls:
                return 0
            unsent = [
                row["reservation_id"]
                for rows in calls.values()
                for row in rows
                if row["state"] == "reserved" or not _owes(rows)
            ]
            await connection.execute(
                "UPDATE reservation SET state = 'done', cost_usd = 0 WHERE reservation_id = ANY($1)", unsent
            )
            billed = [self._orphan(rows) for rows in calls.values() if _owes(rows)]
            if billed:
                await connection.fetchrow(
                    "SELECT uncounted FROM router_settle($1)", as_json([orphan.account for orphan in billed])
                )
                for orphan in billed:
                    await self._evidence.record(connection, orphan.event, subject=orphan.subject)
        metrics.orphans.labels("released").inc(len(unsent))
        metrics.orphans.labels("billed").inc(len(billed))
        _log.warning("orphans.closed", released=len(unsent), calls_billed=len(billed))
        return len(found)

    def _orphan(self, rows: Sequence[Any]) -> _Orphan:
        last = max(rows, key=lambda row: row["create_time"])
        call: dict[str, Any] = json.loads(last["call"])
        now = datetime.now(UTC)
        costs = {row["reservation_id"]: _owed(row) for row in rows if row["state"] != "reserved"}
        cost = sum(costs.values(), Decimal(0))
        caller = _caller(call, last["tenant"])
        usage: dict[str, Any] = {
            "tenant": last["tenant"],
            "request_id": last["request_id"],
            "end_time": now.isoformat(),
            **{name: call[name] for name in _AS_NOTED},
            "catalogue_model": call["model"],
            "returned_model": "",
            "input_tokens": call["input_most"],
            "cached_input_tokens": 0,
            "cache_write_tokens": 0,
            "image_tokens": 0,
            "output_tokens": call["output_most"],
            "reasoning_tokens": 0,
            "cost_usd": str(cost),
            "estimated": True,
            "cached": False,
            "attempts": [
                {"model": call["model"], "provider": call["provider"], "outcome": ORPHANED, "status": None}
                | {"latency_ms": round((now - last["create_time"]).total_seconds() * 1000)}
            ],
            "outcome": ORPHANED,
            "latency_ms": round((now - rows[0]["create_time"]).total_seconds() * 1000),
        }
        counted = ("input_tokens", "output_tokens", "cost_usd", "estimated")
        event = self._evidence.seal(
            MODEL_CALL,
            caller=caller,
            subject=caller.subject,
            resource=f"model/{call['model']}",
            data={
                "operation": call["operation"],
                "request_id": last["request_id"],
                "catalogue_model": call["model"],
                "provider": call["provider"],
                "usage": {name: usage[name] for name in counted},
                "outcome": ORPHANED,
            },
            time=now,
            run_id=call["run_id"] or None,
        )
        holds = [{"id": str(key), "cost": str(owed), "state": "expired"} for key, owed in costs.items()]
        return _Orphan(event, caller.subject, {"usage": usage | {"event_id": event.event_id}, "holds": holds})


def _owed(row: Any) -> Decimal:
    return row["worst_usd"] if row["state"] == "dispatched" else row["cost_usd"]


def _owes(rows: Sequence[Any]) -> bool:
    """Whether a provider may have answered: then the call is on the bill, also if it is free."""
    return any(row["state"] == "dispatched" or row["cost_usd"] > 0 for row in rows)


def _caller(call: Mapping[str, Any], tenant: str) -> Caller:
    return Caller(
        subject=call["subject"],
        tenant=tenant,
        kind=call["kind"],
        roles=frozenset(call["roles"]),
        groups=frozenset(),
        act=call["act"],
        run_id=call["run_id"] or None,
        token_id=call["token_id"],
        expires_at=datetime.now(UTC),
        owner=call["owner"],
    )
