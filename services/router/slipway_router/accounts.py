"""How calls are accounted for, however they end: answered, failed, or left by their caller."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from slipway_chassis.errors import SlipwayError

from slipway_router import metrics
from slipway_router.attempts import Underway
from slipway_router.books import Question, Written
from slipway_router.call_record import CANCELLED, OK, CallRecord
from slipway_router.chat import Record
from slipway_router.errors import ProviderFailure
from slipway_router.failover import Failover
from slipway_router.tokens import TokenCount


class Books(Protocol):
    """Where accounts are kept, see books."""

    async def settle(self, record: CallRecord, question: Question) -> Written: ...


class Accounts:
    """Closes the account of a call. Each call closes its account exactly once, whatever happens to its caller."""

    def __init__(self, books: Books, failover: Failover) -> None:
        self._books = books
        self._failover = failover
        self._settling: set[asyncio.Future[Any]] = set()

    async def answered(
        self, attempt: Underway[Any], record: CallRecord, question: Question, usage: TokenCount | None
    ) -> Record:
        """The attempt answered whole and used `usage` (None: the provider did not say).

        Only an answer to an effect waits until it is written: its run refers to the record. For any other one the
        reservation stands until then.
        """
        if usage is None:
            record.spend_estimate(attempt.hold)
        else:
            record.spend(attempt.hold, usage)
            attempt.span.set_attribute("gen_ai.usage.input_tokens", usage.prompt)
            attempt.span.set_attribute("gen_ai.usage.output_tokens", usage.completion)
        record.end(OK)

        async def close() -> Record:
            await self._failover.won(attempt, record)
            return await self._settle(record, question)

        return await self._surely(close())

    async def kept(self, record: CallRecord, question: Question) -> Record:
        """The call was answered from the tenant's cache: nothing was bought."""
        record.end(OK)
        return await self._surely(self._settle(record, question))

    async def failed(
        self, record: CallRecord, question: Question, error: SlipwayError, attempt: Underway[Any] | None = None
    ) -> None:
        """The call failed; with `attempt`, after its first delta was sent: what came until then is paid."""

        async def close() -> Record:
            if attempt is not None and isinstance(error, ProviderFailure):
                if error.usage is None:
                    record.spend_estimate(attempt.hold)
                await self._failover.lost(attempt, record, error)
            record.end(error.reason)
            return await self._settle(record, question)

        await self._surely(close())

    async def left(self, record: CallRecord, question: Question, attempt: Underway[Any] | None = None) -> None:
        """The caller went away; the provider was stopped, and what it did until then is paid by estimate."""

        async def close() -> Record:
            if attempt is not None:
                await self._failover.left(attempt, record)
            record.output = {"content": "".join(record.text)}
            record.end(CANCELLED)
            return await self._settle(record, question)

        await self._surely(close())

    async def drain(self) -> None:
        """Wait for accounts that are being closed."""
        await asyncio.gather(*self._settling, return_exceptions=True)

    async def _settle(self, record: CallRecord, question: Question) -> Record:
        written = await self._books.settle(record, question)
        _measure(record)
        if record.effect is not None:
            await written.committed
        else:
            self._settling.add(written.committed)
            written.committed.add_done_callback(self._settling.discard)
        return written.record

    async def _surely(self, closing: Coroutine[Any, Any, Record]) -> Record:
        # In a task of its own: money was spent, so a caller who goes away must not stop the books.
        task = asyncio.create_task(closing)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return await asyncio.shield(task)


def _measure(record: CallRecord) -> None:
    model = record.candidate.model if record.candidate else None
    provider, name = (model.provider.name, model.upstream) if model else ("", "")
    route = record.plan.scope if record.plan else ""
    metrics.calls.labels(route, model.name if model else "", record.outcome).inc()
    error = "" if record.outcome == OK else record.outcome
    metrics.operation_duration.labels(record.operation, provider, name, error).observe(record.latency_ms / 1000)
    if model is None:
        return
    metrics.cost_dollars.labels(name).inc(float(record.cost))
    tokens = record.tokens
    for kind, count in (("input", tokens.prompt), ("output", tokens.completion)):
        if count:
            metrics.token_usage.labels(record.operation, provider, name, kind).observe(count)
