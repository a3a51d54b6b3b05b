"""Usage rows in PostgreSQL, written with the audit event of the call in one transaction."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any

import asyncpg
from slipway_chassis.evidence import Evidence
from slipway_chassis.postgres import transaction
from slipway_chassis.telemetry import current_trace_id

from slipway_router.accounts import Question
from slipway_router.call_record import CallRecord
from slipway_router.chat import Record, Spent
from slipway_router.evidence_data import MODEL_CALL, event_data
from slipway_router.tokens import TokenCount
from slipway_router.usage import Dimension, UsageRow, UsageSum

_COLUMNS = (
    "tenant, request_id, end_time, operation, subject, act, run_id, task, requested_model, route, catalogue_model,"
    " returned_model, provider, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_usd,"
    " estimated, attempts, outcome, latency_ms, labels, event_id"
)
_INSERT = f"INSERT INTO model_usage ({_COLUMNS}) VALUES ({', '.join(f'${n}' for n in range(1, 25))})"  # noqa: S608

_PAGE = """
SELECT usage_id, request_id, end_time, subject, run_id, requested_model, catalogue_model, returned_model, provider,
       task, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_usd, estimated,
       jsonb_array_length(attempts) AS attempts, outcome, latency_ms, labels
FROM model_usage
WHERE tenant = $1
  AND ($2 = '' OR request_id = $2)
  AND ($3 = '' OR run_id = $3)
  AND ($4::timestamptz IS NULL OR (end_time, usage_id) < ($4, $5))
ORDER BY end_time DESC, usage_id DESC
LIMIT $6
"""

_DIMENSION_SQL: dict[Dimension, str] = {
    "model": "catalogue_model",
    "subject": "subject",
    "run": "run_id",
    "task": "task",
    "provider": "provider",
    "day": "to_char(end_time AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}
_MOST_GROUPS = 1000


class UsageStore:
    """The usage table of the router's database."""

    def __init__(self, pool: asyncpg.Pool, evidence: Evidence) -> None:
        self._pool = pool
        self._evidence = evidence

    async def settle(self, record: CallRecord, question: Question) -> Record:
        """Write the row and the audit event of a call that has ended. Raises StoreUnavailable."""
        caller, candidate, plan = record.caller, record.candidate, record.plan
        sealed = self._evidence.seal(
            MODEL_CALL,
            caller=caller,
            subject=caller.subject,
            resource=f"model/{candidate.model.name}" if candidate else f"model/{record.requested_model or record.task}",
            data=event_data(record, question),
            time=record.end_time,
            run_id=record.run_id or None,
            policy=candidate.policy if candidate else None,
            trace_id=current_trace_id(),
        )
        async with transaction(self._pool) as connection:
            await connection.execute(
                _INSERT,
                caller.tenant,
                record.request_id,
                record.end_time,
                record.operation,
                caller.subject,
                caller.act,
                record.run_id,
                record.task,
                record.requested_model,
                plan.route.name if plan and plan.route else None,
                candidate.model.name if candidate else "",
                record.returned_model,
                candidate.model.provider.name if candidate else "",
                record.tokens.input,
                record.tokens.cached_input,
                record.tokens.output,
                record.tokens.reasoning,
                record.cost,
                record.estimated,
                json.dumps([asdict(note) for note in record.attempts]),
                record.outcome,
                record.latency_ms,
                json.dumps(dict(record.labels)),
                sealed.event_id,
            )
            await self._evidence.record(connection, sealed, subject=caller.subject)
        return Record(sealed.event_id, sealed.commitment)

    async def page(
        self,
        tenant: str,
        *,
        request_id: str,
        run_id: str,
        after: tuple[datetime, int] | None,
        limit: int,
    ) -> list[UsageRow]:
        """Rows of `tenant`, newest first, after the row with that time and id. Empty filters let all pass."""
        moment, last = after or (None, 0)
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(_PAGE, tenant, request_id, run_id, moment, last, limit)
        return [_row(row) for row in rows]

    async def sums(
        self, tenant: str, dimension: Dimension, start: datetime | None, end: datetime | None
    ) -> list[UsageSum]:
        """Sums over [start, end) by `dimension`, dearest first, at most 1000."""
        query = f"""
            SELECT {_DIMENSION_SQL[dimension]} AS key, count(*) AS calls, sum(input_tokens)::bigint AS input_tokens,
                   sum(cached_input_tokens)::bigint AS cached_input_tokens, sum(output_tokens)::bigint AS output_tokens,
                   sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost_usd) AS cost_usd,
                   bool_or(estimated) AS estimated
            FROM model_usage
            WHERE tenant = $1 AND ($2::timestamptz IS NULL OR end_time >= $2)
              AND ($3::timestamptz IS NULL OR end_time < $3)
            GROUP BY 1 ORDER BY cost_usd DESC, key LIMIT {_MOST_GROUPS}
        """  # noqa: S608 - the dimension comes from the table above
        async with transaction(self._pool) as connection:
            rows = await connection.fetch(query, tenant, start, end)
        return [UsageSum(row["key"], row["calls"], _spent(row)) for row in rows]


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
        spent=_spent(row),
        attempts=row["attempts"],
        outcome=row["outcome"],
        latency_ms=row["latency_ms"],
        labels=json.loads(row["labels"]),
    )


def _spent(row: Any) -> Spent:
    tokens = TokenCount(row["input_tokens"], row["cached_input_tokens"], row["output_tokens"], row["reasoning_tokens"])
    return Spent(tokens, row["cost_usd"], row["estimated"])
