"""slipway.router.v1 over gRPC: converts, calls, converts back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Protocol

from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.paging import InvalidPageToken, decode_token, encode_token, page_size
from slipway_chassis.policy import Resource

from slipway_router import convert
from slipway_router.budget_servicer import BudgetMethods, Budgets
from slipway_router.calls import ModelCalls
from slipway_router.comparison import Comparisons
from slipway_router.measurements import Measurements
from slipway_router.permissions import Policy
from slipway_router.servicer_models import CatalogueView, DecisionReader, HealthView, ModelsServicer
from slipway_router.usage import DIMENSIONS, Dimension, UsageRow, UsageSum, is_dimension


class UsageReader(DecisionReader, Protocol):
    """Where usage is read from."""

    async def page(
        self, tenant: str, *, request_id: str, run_id: str, after: tuple[datetime, int] | None, limit: int
    ) -> list[UsageRow]: ...
    async def sums(
        self, tenant: str, dimension: Dimension, start: datetime | None, end: datetime | None
    ) -> list[UsageSum]: ...


class RouterServicer(ModelsServicer, BudgetMethods):
    """Serves RouterService: calls and usage here, the rest by its bases."""

    def __init__(
        self,
        calls: ModelCalls,
        comparisons: Comparisons,
        usage: UsageReader,
        catalogue: CatalogueView,
        health: HealthView,
        measurements: Measurements,
        policy: Policy,
        budgets: Budgets,
    ) -> None:
        BudgetMethods.__init__(self, budgets, policy)
        super().__init__(calls, comparisons, catalogue, health, measurements, usage, policy)
        self._usage = usage

    async def CreateChatCompletion(
        self, request: pb.CreateChatCompletionRequest, context: Any
    ) -> pb.CreateChatCompletionResponse:
        """A whole answer."""
        answer = await self._calls.chat(current_caller(), convert.chat_request(request.chat))
        return convert.chat_response(answer)

    async def StreamChatCompletion(
        self, request: pb.StreamChatCompletionRequest, context: Any
    ) -> AsyncIterator[pb.StreamChatCompletionResponse]:
        """An answer in deltas. A caller who hangs up closes the generator, and with it the provider's stream."""
        async with aclosing(self._calls.stream(current_caller(), convert.chat_request(request.chat))) as events:
            async for event in events:
                yield convert.stream_response(event)

    async def CreateEmbeddings(self, request: pb.CreateEmbeddingsRequest, context: Any) -> pb.CreateEmbeddingsResponse:
        """Vectors for texts."""
        answer = await self._calls.embed(current_caller(), convert.embeddings_request(request))
        return convert.embeddings_response(answer)

    async def ListUsage(self, request: pb.ListUsageRequest, context: Any) -> pb.ListUsageResponse:
        """Usage rows of the caller's tenant, newest first."""
        tenant = self._may_read_usage()
        size = page_size(request.page_size, 100, 500)
        after = _position(decode_token(tenant, "ListUsage", request.page_token, [int, int]))
        rows = await self._usage.page(
            tenant, request_id=request.request_id, run_id=request.run_id, after=after, limit=size + 1
        )
        token = ""
        if len(rows) > size:
            last = rows[size - 1]
            token = encode_token(tenant, "ListUsage", _micros(last.end_time), last.usage_id)
        return pb.ListUsageResponse(rows=[convert.usage_row(row) for row in rows[:size]], next_page_token=token)

    async def SummarizeUsage(self, request: pb.SummarizeUsageRequest, context: Any) -> pb.SummarizeUsageResponse:
        """Sums of the caller's tenant by one dimension, dearest first."""
        tenant = self._may_read_usage()
        dimension = request.group_by
        if not is_dimension(dimension):
            raise InvalidArgument(f"group_by must be one of {', '.join(DIMENSIONS)}", field="group_by")
        start, end = convert.moment(request, "start_time"), convert.moment(request, "end_time")
        groups = await self._usage.sums(tenant, dimension, start, end)
        return pb.SummarizeUsageResponse(groups=[convert.usage_group(group) for group in groups])

    def _may_read_usage(self) -> str:
        caller = current_caller()
        self._policy.authorize(caller, "ReadUsage", Resource(type="Usage", id=caller.tenant, tenant=caller.tenant))
        return caller.tenant


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _micros(moment: datetime) -> int:
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _position(fields: tuple[str | int, ...] | None) -> tuple[datetime, int] | None:
    if fields is None:
        return None
    try:
        return datetime.fromtimestamp(int(fields[0]) // 1_000_000, UTC).replace(
            microsecond=int(fields[0]) % 1_000_000
        ), int(fields[1])
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidPageToken from error
