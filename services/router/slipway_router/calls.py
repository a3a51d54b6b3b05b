"""The router's main act: a request becomes a plan, attempts, an answer, and an account of what it cost."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Literal, Protocol

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument, SlipwayError

from slipway_router import evidence_data, metrics
from slipway_router.accounts import Accounts
from slipway_router.answer_cache import AnswerCache, Kept
from slipway_router.answers import ChatAnswer, Collected, EmbeddingsAnswer
from slipway_router.attempts import AttemptTimes, Underway
from slipway_router.call_record import CallRecord
from slipway_router.catalogue import Catalogue, Model
from slipway_router.chat import (
    ChatRequest,
    Completion,
    Effect,
    EmbeddingsRequest,
    Piece,
    Record,
    StreamEvent,
    StreamFinished,
    StreamStarted,
    TextDelta,
    Vectors,
)
from slipway_router.classification import TaskClassifier
from slipway_router.demand import Demand, with_residency
from slipway_router.failover import Failover
from slipway_router.measurements import Measurements
from slipway_router.opened import Opened, judged
from slipway_router.permissions import ModelPermissions
from slipway_router.question import fingerprint
from slipway_router.recordings import Recorder
from slipway_router.routing import Plan, Proposal, check_candidates, plan, routing_of
from slipway_router.wire.pool import WirePool


class TenantRequired(InvalidArgument):
    """The caller acts for no tenant, so nobody could be billed."""

    reason = "TENANT_REQUIRED"


class Ledger(Protocol):
    """The effect ledger of the chassis."""

    async def perform(
        self,
        caller: Caller,
        effect: Effect,
        fingerprint: bytes,
        action: Callable[[], Awaitable[bytes]],
        *,
        in_doubt: Literal["repeat", "uncertain"],
    ) -> bytes: ...


class StickySessions(Protocol):
    """Which model a session stays with, see sticky."""

    async def ordered(self, plan: Plan, caller: Caller, session_id: str) -> Plan: ...
    async def answered(self, plan: Plan, caller: Caller, session_id: str, model: str) -> None: ...


class ModelCalls:
    """Calls models for callers."""

    def __init__(
        self,
        *,
        catalogue: Callable[[], Catalogue],
        permissions: ModelPermissions,
        measurements: Measurements,
        failover: Failover,
        sticky: StickySessions,
        pool: WirePool,
        accounts: Accounts,
        ledger: Ledger,
        cache: AnswerCache,
        recorder: Recorder,
    ) -> None:
        self._catalogue = catalogue
        self._permissions = permissions
        self._measurements = measurements
        self._failover = failover
        self._sticky = sticky
        self._pool = pool
        self._accounts = accounts
        self._ledger = ledger
        self._cache = cache
        self._recorder = recorder
        # Past the ledger: an effect of the request stands for its answer, not for this.
        self._classifier = TaskClassifier(self._embed)

    async def explain(self, caller: Caller, request: ChatRequest) -> Plan:
        """The plan for a request that is not sent."""
        made = await self._planned_with_task(_billable(caller), request, streamed=False)
        return await self._sticky.ordered(made, caller, request.session_id)

    async def _planned_with_task(self, caller: Caller, request: ChatRequest, *, streamed: bool) -> Plan:
        """The plan for the model or task stated, else for the task that the classifier proposes."""
        demand = Demand.of_chat(request, streamed=streamed)
        classifier = self._catalogue().classifier
        if classifier is None or demand.model or demand.task:
            return self._planned(caller, demand)
        proposal = await self._classifier.propose(caller, classifier, request)
        return self._planned(caller, replace(demand, task=proposal.task), proposal)

    def _planned(self, caller: Caller, demand: Demand, proposal: Proposal | None = None) -> Plan:
        catalogue = self._catalogue()
        demand = with_residency(demand, catalogue, caller.tenant, caller.act)
        permissions = self._permissions.of(caller, catalogue)
        return replace(plan(catalogue, demand, permissions, self._measurements.current()), proposal=proposal)

    async def chat(self, caller: Caller, request: ChatRequest) -> ChatAnswer:
        """A whole answer. With an effect, a repeated key gets the recorded answer and nothing is bought."""
        if request.effect is None:
            return await self._chat(caller, request)

        async def act() -> bytes:
            return (await self._chat(caller, request)).encode()

        return ChatAnswer.decode(await self._perform(caller, request.effect, request, act))

    async def embed(self, caller: Caller, request: EmbeddingsRequest) -> EmbeddingsAnswer:
        """Vectors in the order of the inputs; effects as in `chat`."""
        if request.effect is None:
            return await self._embed(caller, request)

        async def act() -> bytes:
            return (await self._embed(caller, request)).encode()

        return EmbeddingsAnswer.decode(await self._perform(caller, request.effect, request, act))

    async def stream(self, caller: Caller, request: ChatRequest) -> AsyncGenerator[StreamEvent, None]:
        """The answer in deltas. Close the generator to stop the provider: what came until then is billed.

        With an effect the answer is bought to its end even if the caller goes away, so that a repetition finds it; the
        repetition gets it as one delta.
        """
        if request.effect is None:
            async with contextlib.aclosing(self._stream(caller, request)) as events:
                async for event in events:
                    yield event
            return
        live: asyncio.Queue[StreamEvent | None] = asyncio.Queue()

        async def act() -> bytes:
            collected = Collected()
            async with contextlib.aclosing(self._stream(caller, request)) as events:
                async for event in events:
                    collected.take(event)
                    live.put_nowait(event)
            return collected.whole().encode()

        performing = asyncio.ensure_future(self._perform(caller, request.effect, request, act))
        performing.add_done_callback(lambda _: live.put_nowait(None))
        streamed = False
        try:
            while (event := await live.get()) is not None:
                streamed = True
                yield event
            recorded = ChatAnswer.decode(await performing)
        finally:
            # The execution itself is the ledger's and goes on; only this wait for it ends.
            performing.cancel()
        if not streamed:
            for event in recorded.replay():
                yield event

    async def _perform(
        self,
        caller: Caller,
        effect: Effect,
        request: ChatRequest | EmbeddingsRequest,
        act: Callable[[], Awaitable[bytes]],
    ) -> bytes:
        return await self._ledger.perform(caller, effect, fingerprint(request), act, in_doubt="repeat")

    async def _chat(self, caller: Caller, request: ChatRequest) -> ChatAnswer:
        record = _begin(caller, request)
        question = evidence_data.chat_question(request)

        async def start(model: Model, times: AttemptTimes) -> Completion:
            return judged(model, await self._pool.client(model.provider).chat(model, request, times), times)

        made, kept = await self._planned_or_kept(caller, record, question, request, streamed=False)
        if kept is not None:
            return await self._kept(kept, record, question)
        try:
            attempt = await self._failover.first(made, record, start)
        except SlipwayError as error:
            await self._accounts.failed(record, question, error)
            raise
        except asyncio.CancelledError:
            await self._accounts.left(record, question)
            raise
        completion = attempt.result
        record.returned_model = completion.model
        record.text, record.called = [completion.content or ""], completion.tool_calls
        record.output = evidence_data.chat_output(completion.content, completion)
        reference = await self._accounts.answered(attempt, record, question, completion.usage)
        await self._sticky.answered(made, caller, request.session_id, attempt.candidate.model.name)
        answer = _answer(record, completion, completion.content, reference)
        await self._cache.keep(caller, request, made, answer)
        self._recorder.offer(caller, request, made, answer)
        return answer

    async def _embed(self, caller: Caller, request: EmbeddingsRequest) -> EmbeddingsAnswer:
        record = CallRecord.begin(
            _billable(caller),
            "embeddings",
            model=request.model,
            task="",
            labels={},
            effect=request.effect,
            run_max_cost=request.run_max_cost,
        )
        question = evidence_data.embeddings_question(request)

        async def start(model: Model, times: AttemptTimes) -> Vectors:
            return await self._pool.client(model.provider).embed(model, request.inputs, times)

        try:
            made = record.plan = self._planned(caller, Demand.of_embeddings(request))
            check_candidates(made, lambda model: self._permissions.refuse(caller, model))
            attempt = await self._failover.first(made, record, start)
        except SlipwayError as error:
            await self._accounts.failed(record, question, error)
            raise
        except asyncio.CancelledError:
            await self._accounts.left(record, question)
            raise
        vectors = attempt.result
        record.returned_model = vectors.model
        await self._accounts.answered(attempt, record, question, vectors.usage)
        name = attempt.candidate.model.name
        return EmbeddingsAnswer(vectors.values, vectors.model, name, record.spent, record.request_id)

    async def _stream(self, caller: Caller, request: ChatRequest) -> AsyncGenerator[StreamEvent, None]:
        record = _begin(caller, request)
        question = evidence_data.chat_question(request)
        attempt: Underway[Opened] | None = None
        made, kept = await self._planned_or_kept(caller, record, question, request, streamed=True)
        if kept is not None:
            for event in (await self._kept(kept, record, question)).replay():
                yield event
            return
        try:
            attempt = await self._failover.first(
                made, record, lambda m, times: self._open(m, request, times), Opened.aclose
            )
            opened, model = attempt.result, attempt.candidate.model
            record.returned_model = opened.piece.model
            metrics.time_to_first_token.labels(model.provider.name, model.upstream).observe(record.elapsed())
            attempts = len(record.attempts) + 1
            yield StreamStarted(opened.piece.model, model.name, attempts, record.request_id, routing_of(made))
            while isinstance(opened.piece, Piece):
                record.text.append(opened.piece.text)
                yield TextDelta(opened.piece.text)
                await opened.advance()
            completion = opened.piece
            if completion.content:
                # JSON that was held back until it was known to be valid.
                record.text.append(completion.content)
                yield TextDelta(completion.content)
        except SlipwayError as error:
            await self._accounts.failed(record, question, error, attempt)
            raise
        except BaseException:
            # Cancelled, or the generator was closed: the caller went away.
            try:
                if attempt is not None:
                    await attempt.result.aclose()
            finally:
                await self._accounts.left(record, question, attempt)
            raise
        record.returned_model, record.called = completion.model, completion.tool_calls
        record.output = evidence_data.chat_output("".join(record.text), completion)
        reference = await self._accounts.answered(attempt, record, question, completion.usage)
        await self._sticky.answered(made, caller, request.session_id, model.name)
        answer = _answer(record, completion, "".join(record.text) or None, reference)
        await self._cache.keep(caller, request, made, answer)
        self._recorder.offer(caller, request, made, answer)
        for call in completion.tool_calls:
            yield call
        yield StreamFinished(completion.finish_reason, record.spent, reference)

    async def _kept(self, kept: Kept, record: CallRecord, question: Mapping[str, object]) -> ChatAnswer:
        """The answer to the same question, for nothing."""
        answer = kept.answer
        record.candidate, record.returned_model, record.cached = kept.candidate, answer.model, True
        record.output = evidence_data.answer_output(answer)
        reference = await self._accounts.kept(record, question)
        assert record.plan is not None  # noqa: S101 - it was made before the cache was asked
        return replace(
            answer,
            spent=record.spent,
            attempts=0,
            request_id=record.request_id,
            record=reference,
            create_time=record.end_time,
            routing=routing_of(record.plan),
        )

    async def _open(self, model: Model, request: ChatRequest, times: AttemptTimes) -> Opened:
        opened = Opened(self._pool.client(model.provider).stream(model, request, times))
        await opened.advance()
        if isinstance(opened.piece, Completion):
            judged(model, opened.piece, times)
        return opened

    async def _planned_or_kept(
        self,
        caller: Caller,
        record: CallRecord,
        question: Mapping[str, object],
        request: ChatRequest,
        *,
        streamed: bool,
    ) -> tuple[Plan, Kept | None]:
        """The plan of a request that is sent, and the answer if the tenant's cache has it; raises why there is none."""
        try:
            made = await self._plan_of_chat(caller, record, request, streamed=streamed)
            return made, await self._cache.find(caller, request, made)
        except SlipwayError as error:
            await self._accounts.failed(record, question, error)
            raise
        except asyncio.CancelledError:
            await self._accounts.left(record, question)
            raise

    async def _plan_of_chat(self, caller: Caller, record: CallRecord, request: ChatRequest, *, streamed: bool) -> Plan:
        """The plan of a request that is sent; raises why there is none."""
        made = record.plan = await self._planned_with_task(caller, request, streamed=streamed)
        record.task = made.demand.task
        check_candidates(made, lambda model: self._permissions.refuse(caller, model))
        made = record.plan = await self._sticky.ordered(made, caller, request.session_id)
        return made


def _answer(record: CallRecord, completion: Completion, content: str | None, reference: Record) -> ChatAnswer:
    assert record.plan is not None  # noqa: S101 - it was answered
    assert record.candidate is not None  # noqa: S101 - by this one
    return ChatAnswer(
        content=content,
        tool_calls=completion.tool_calls,
        refusal=completion.refusal,
        finish_reason=completion.finish_reason,
        model=completion.model,
        catalogue_model=record.candidate.model.name,
        spent=record.spent,
        attempts=len(record.attempts),
        request_id=record.request_id,
        record=reference,
        create_time=record.end_time,
        routing=routing_of(record.plan),
    )


def _begin(caller: Caller, request: ChatRequest) -> CallRecord:
    return CallRecord.begin(
        _billable(caller),
        "chat",
        model=request.model,
        task=request.task,
        labels=request.labels,
        effect=request.effect,
        request_id=request.request_id,
        run_max_cost=request.run_max_cost,
    )


def _billable(caller: Caller) -> Caller:
    if not caller.tenant:
        raise TenantRequired("the caller's token names no tenant")
    return caller
