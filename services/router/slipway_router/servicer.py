"""slipway.router.v1 over gRPC: converts, calls, converts back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Protocol

from slipway.router.v1 import router_pb2 as pb
from slipway.router.v1 import router_pb2_grpc
from slipway_chassis.caller import Caller, current_caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.paging import InvalidPageToken, decode_token, encode_token, page_size
from slipway_chassis.policy import Resource

from slipway_router import convert
from slipway_router.calls import ModelCalls, Policy, use_of
from slipway_router.catalogue import Catalogue
from slipway_router.health import Admission, Gate
from slipway_router.routing import Demand
from slipway_router.usage import DIMENSIONS, Dimension, UsageRow, UsageSum, is_dimension


class UsageReader(Protocol):
    """Where usage is read from."""

    async def page(
        self, tenant: str, *, request_id: str, run_id: str, after: tuple[datetime, int] | None, limit: int
    ) -> list[UsageRow]: ...
    async def sums(
        self, tenant: str, dimension: Dimension, start: datetime | None, end: datetime | None
    ) -> list[UsageSum]: ...


class HealthView(Protocol):
    """Where the health of models is looked up."""

    async def peek(self, model: str) -> Admission: ...


class CatalogueView(Protocol):
    """The catalogue in force."""

    def current(self) -> Catalogue: ...


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """Serves RouterService."""

    def __init__(
        self, calls: ModelCalls, usage: UsageReader, catalogue: CatalogueView, health: HealthView, policy: Policy
    ) -> None:
        self._calls = calls
        self._usage = usage
        self._catalogue = catalogue
        self._health = health
        self._policy = policy

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

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        """Models and routes that the caller may use, by name."""
        caller = current_caller()
        size = page_size(request.page_size, 100, 200)
        after = decode_token(caller.tenant, "ListModels", request.page_token, [str])
        entries = await self._entries(caller)
        rest = [entry for entry in entries if after is None or entry.name > str(after[0])]
        page = rest[:size]
        token = encode_token(caller.tenant, "ListModels", page[-1].name) if len(rest) > size else ""
        return pb.ListModelsResponse(models=page, next_page_token=token)

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Any) -> pb.ExplainRouteResponse:
        """Which candidates a request would try, and why others are left out."""
        chat = convert.chat_request(request.chat, messages_needed=False)
        plan = await self._calls.explain(current_caller(), Demand.of_chat(chat), chat.session_id)
        names = [candidate.model.name for candidate in plan.candidates]
        return convert.explanation(plan, {name: await self._health.peek(name) for name in names})

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

    async def _entries(self, caller: Caller) -> list[pb.Model]:
        catalogue = self._catalogue.current()
        usable = {
            model.name: model
            for model in catalogue.models.values()
            if self._policy.decide(caller, *use_of(caller, model)).allowed
        }
        health = {name: await self._health.peek(name) for name in usable}
        entries = [convert.model_entry(model, health[name]) for name, model in usable.items()]
        for route in catalogue.routes.values():
            candidates = [model for model in route.candidates if model.name in usable]
            if candidates:
                regions = sorted({region for model in candidates for region in model.regions})
                healthy = any(health[model.name].gate is not Gate.CLOSED for model in candidates)
                entries.append(convert.route_entry(route, regions, healthy))
        return sorted(entries, key=lambda entry: entry.name)

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
