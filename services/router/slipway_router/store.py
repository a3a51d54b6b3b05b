"""Usage rows in PostgreSQL: reading them. books_store writes them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import asyncpg
from slipway_chassis.postgres import transaction

from slipway_router.call_record import AttemptNote
from slipway_router.chat import Spent
from slipway_router.decision import restored
from slipway_router.tokens import TokenCount
from slipway_router.usage import Dimension, SentDecision, UsageRow, UsageSum

_PAGE = """
SELECT usage_id, request_id, end_time, subject, run_id, requested_model, catalogue_model, returned_model, provider,
       task, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cache_write_tokens, image_tokens,
       cost_usd, estimated, cached, jsonb_array_length(attempts) AS attempts, outcome, latency_ms, labels, root_run_id,
       coalesce(act, '') AS agent_version
FROM model_usage
WHERE tenant = $1
  AND ($2 = '' OR request_id = $2)
  AND ($3 = '' OR run_id = $3)
  AND ($4::timestamptz IS NULL OR (end_time, usage_id) < ($4, $5))
ORDER BY end_time DESC, usage_id DESC
LIMIT $6
"""
# A call that has ended and is not written yet, perhaps at another replica.
_UNWRITTEN = "SELECT EXISTS (SELECT FROM reservation WHERE tenant = $1 AND request_id = $2 AND state <> 'expired')"
_UNWRITTEN_LOOKS = 40
_UNWRITTEN_PAUSE = 0.05  # seconds

_DIMENSION_SQL: dict[Dimension, str] = {
    "model": "catalogue_model",
    "subject": "subject",
    "run": "run_id",
    "root_run": "root_run_id",
    "agent": "split_part(coalesce(act, ''), '@', 1)",
    "user": "person",
    "key": "CASE WHEN subject LIKE 'api-key:%' THEN substr(subject, 9) ELSE '' END",
    "task": "task",
    "provider": "provider",
    "outcome": "outcome",
    "day": "to_char(end_time AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "month": "to_char(end_time AT TIME ZONE 'UTC', 'YYYY-MM')",
}
_MOST_GROUPS = 1000
_DECISION = """
SELECT coalesce(route, '') AS route, decision, attempts, outcome, end_time FROM model_usage
WHERE tenant = $1 AND request_id = $2 AND decision IS NOT NULL
ORDER BY end_time DESC, usage_id DESC LIMIT 1
"""


class UsageStore:
    """The usage table of the router's database."""

    def __init__(self, pool: asyncpg.Pool, flush: Callable[[], Awaitable[None]]) -> None:
        """`flush` waits until the calls that have ended in this process are written."""
        self._pool = pool
        self._flush = flush

    async def page(
        self,
        tenant: str,
        *,
        request_id: str,
        run_id: str,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> list[UsageRow]:
        """Rows of `tenant`, newest first, after the row with that time and id. Empty filters let all pass.

        Calls that this process has answered are among them; a `request_id` that another replica has answered and is
        writing right now is waited for, two seconds at most.
        """
        await self._flush()
        moment, last = after or (None, 0)
        looks = 0
        while True:
            async with transaction(self._pool) as connection:
                rows = await connection.fetch(_PAGE, tenant, request_id, run_id, moment, last, limit)
                looks += 1
                found = rows or not request_id or looks == _UNWRITTEN_LOOKS
                if found or not await connection.fetchval(_UNWRITTEN, tenant, request_id):
                    return [_row(row) for row in rows]
            await asyncio.sleep(_UNWRITTEN_PAUSE)

    async def decision(self, tenant: str, request_id: str) -> SentDecision | None:
        """How the model of a call was chosen and how its attempts went; None for an unknown call, and for one that was
        refused before a choice was made."""
        # This waits for calls that are being written.
        await self.page(tenant, request_id=request_id, run_id="", after=None, limit=1)
        async with transaction(self._pool) as connection:
            row = await connection.fetchrow(_DECISION, tenant, request_id)
        if row is None:
            return None
        return SentDecision(
            decision=restored(row["route"], json.loads(row["decision"])),
            attempts=[AttemptNote(**note) for note in json.loads(row["attempts"])],
            outcome=row["outcome"],
            end_time=row["end_time"],
        )

    async def sums(
        self, tenant: str, dimension: Dimension, start: datetime | None, end: datetime | None
    ) -> list[UsageSum]:
        """Sums over [start, end) by `dimension`, dearest first, at most 1000."""
        query = f"""
            SELECT {_DIMENSION_SQL[dimension]} AS key, count(*) AS calls, sum(input_tokens)::bigint AS input_tokens,
                   sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(output_tokens)::bigint AS output_tokens,
                   sum(reasoning_tokens)::bigint AS reasoning_tokens,
                   sum(cache_write_tokens)::bigint AS cache_write_tokens, sum(image_tokens)::bigint AS image_tokens,
                   sum(cost_usd) AS cost_usd, bool_or(estimated) AS estimated, false AS cached
            FROM model_usage
            WHERE tenant = $1 AND ($2::timestamptz IS NULL OR end_time >= $2)
              AND ($3::timestamptz IS NULL OR end_time < $3)
            GROUP BY 1 ORDER BY cost_usd DESC, key LIMIT {_MOST_GROUPS}
        """  # noqa: S608 - the dimension comes from the table above
        await self._flush()
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(query, tenant, start, end)
        return [UsageSum(row["key"], row["calls"], spent_of(row)) for row in rows]


def _row(row: Any) -> UsageRow:
    return UsageRow(
        usage_id=row["usage_id"],
        request_id=row["request_id"],
        end_time=row["end_time"],
        subject=row["subject"],
        run_id=row["run_id"],
        requested_model=row["requested_model"],
        catalogue_model=row["catalogue_model"],
        returned_model=row["returned_model"],
        provider=row["provider"],
        task=row["task"],
        spent=spent_of(row),
        attempts=row["attempts"],
        outcome=row["outcome"],
        latency_ms=row["latency_ms"],
        labels=json.loads(row["labels"]),
        root_run_id=row["root_run_id"],
        agent_version=row["agent_version"],
    )


def spent_of(row: Any) -> Spent:
    """Tokens and cost in a row of model_usage, or of a sum of them."""
    tokens = TokenCount(
        row["input_tokens"],
        row["cached_input_tokens"],
        row["output_tokens"],
        row["reasoning_tokens"],
        row["cache_write_tokens"],
        row["image_tokens"],
    )
    return Spent(tokens, row["cost_usd"], row["estimated"], row["cached"])
