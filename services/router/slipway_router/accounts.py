"""How calls are accounted for, however they end: answered, failed, or left by their caller."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from slipway_chassis.errors import SlipwayError

from slipway_router import metrics
from slipway_router.call_record import CANCELLED, OK, CallRecord
from slipway_router.chat import Record
from slipway_router.errors import ProviderFailure
from slipway_router.failover import Failover, Underway
from slipway_router.tokens import TokenCount

Question = Mapping[str, object]


class Books(Protocol):
    """Where accounts are kept: usage row and audit event, in one transaction."""

    async def settle(self, record: CallRecord, question: Question) -> Record: ...


class Accounts:
    """Closes the account of a call. Each call closes its account exactly once, whatever happens to its caller."""

    def __init__(self, books: Books, failover: Failover) -> None:
        self._books = books
        self._failover = failover
        self._settling: set[asyncio.Task[Record]] = set()

    async def answered(
        self, attempt: Underway[Any], record: CallRecord, question: Question, usage: TokenCount | None
    ) -> Record:
        """The attempt answered whole and used `usage` (None: the provider did not say)."""
        if usage is None:
            record.spend_estimate(attempt.candidate.model)
        else:
            record.spend(attempt.candidate.model, usage)
            attempt.span.set_attribute("gen_ai.usage.input_tokens", usage.input + usage.cached_input)
            attempt.span.set_attribute("gen_ai.usage.output_tokens", usage.output + usage.reasoning)
        record.end(OK)

        async def close() -> Record:
            await self._failover.won(attempt, record)
            return await self._settle(record, question)

        return await self._surely(close())

    async def failed(
        self, record: CallRecord, question: Question, error: SlipwayError, attempt: Underway[Any] | None = None
    ) -> None:
        """The call failed; with `attempt`, after its first delta was sent: what came until then is paid."""
        if attempt is not None and isinstance(error, ProviderFailure):
            if error.usage is None:
                record.spend_estimate(attempt.candidate.model)
            await self._failover.lost(attempt, record, error)
        record.end(error.reason)
        await self._surely(self._settle(record, question))

    async def left(self, record: CallRecord, question: Question, attempt: Underway[Any] | None = None) -> None:
        """The caller went away; the provider was stopped, and what it did until then is paid by estimate."""
        if attempt is not None:
            await self._failover.left(attempt, record)
        if record.broken_off and record.candidate is not None:
            record.spend_estimate(record.candidate.model)
        record.output = {"content": "".join(record.text)}
        record.end(CANCELLED)
        await self._surely(self._settle(record, question))

    async def drain(self) -> None:
        """Wait for accounts that are being closed."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def _settle(self, record: CallRecord, question: Question) -> Record:
        reference = await self._books.settle(record, question)
        _measure(record)
        return reference

    async def _surely(self, closing: Any) -> Record:
        # In a task of its own: money was spent, so a caller who goes away must not stop the books.
        task = asyncio.create_task(closing)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return await asyncio.shield(task)


def _measure(record: CallRecord) -> None:
    model = record.candidate.model if record.candidate else None
    provider, name = (model.provider.name, model.upstream) if model else ("", "")
    error = "" if record.outcome == OK else record.outcome
    metrics.operation_duration.labels(record.operation, provider, name, error).observe(record.latency_ms / 1000)
    if model is None:
        return
    metrics.cost_dollars.labels(name).inc(float(record.cost))
    tokens = record.tokens
    for kind, count in (("input", tokens.input + tokens.cached_input), ("output", tokens.output + tokens.reasoning)):
        if count:
            metrics.token_usage.labels(record.operation, provider, name, kind).observe(count)
