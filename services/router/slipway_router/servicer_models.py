"""The part of slipway.router.v1 that tells about models and decisions."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Protocol

from slipway.router.v1 import router_pb2 as pb
from slipway.router.v1 import router_pb2_grpc
from slipway_chassis.caller import Caller, current_caller
from slipway_chassis.errors import NotFound
from slipway_chassis.paging import decode_token, encode_token, page_size
from slipway_chassis.policy import Resource

from slipway_router import convert, convert_routing
from slipway_router.calls import ModelCalls
from slipway_router.catalogue import Catalogue
from slipway_router.comparison import Comparisons
from slipway_router.decision import explained
from slipway_router.errors import UnknownModel
from slipway_router.health import Admission
from slipway_router.measurements import UNMEASURED, Measurements
from slipway_router.permissions import Policy, use_of
from slipway_router.usage import SentDecision


class DecisionUnknown(NotFound):
    """The tenant has no call of that id for which a model was chosen."""

    reason = "DECISION_NOT_FOUND"


class HealthView(Protocol):
    """Where the health of models is looked up."""

    async def peek(self, model: str) -> Admission: ...


class CatalogueView(Protocol):
    """The catalogue in force."""

    def current(self) -> Catalogue: ...


class DecisionReader(Protocol):
    """Where decisions are kept."""

    async def decision(self, tenant: str, request_id: str) -> SentDecision | None: ...


class ModelsServicer(router_pb2_grpc.RouterServiceServicer):
    """Serves the catalogue and the decisions made on it."""

    def __init__(
        self,
        calls: ModelCalls,
        comparisons: Comparisons,
        catalogue: CatalogueView,
        health: HealthView,
        measurements: Measurements,
        decisions: DecisionReader,
        policy: Policy,
    ) -> None:
        self._calls = calls
        self._comparisons = comparisons
        self._catalogue = catalogue
        self._health = health
        self._measurements = measurements
        self._decisions = decisions
        self._policy = policy

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
        plan = await self._calls.explain(current_caller(), chat)
        names = [candidate.model.name for candidate in plan.candidates]
        admissions = {name: await self._health.peek(name) for name in names}
        return convert_routing.decision(explained(plan, admissions, self._measurements.current()))

    async def GetRouteDecision(self, request: pb.GetRouteDecisionRequest, context: Any) -> pb.GetRouteDecisionResponse:
        """The decision on a call that was sent."""
        caller = current_caller()
        self._policy.authorize(caller, "ReadUsage", Resource(type="Usage", id=caller.tenant, tenant=caller.tenant))
        sent = await self._decisions.decision(caller.tenant, request.request_id)
        if sent is None:
            raise DecisionUnknown(f"no model was chosen for a call {request.request_id[:128]}", field="request_id")
        return convert_routing.sent_decision(sent)

    async def CompareRoutes(
        self, request: pb.CompareRoutesRequest, context: Any
    ) -> AsyncIterator[pb.CompareRoutesResponse]:
        """Recorded requests, answered anew by another model or route."""
        caller = current_caller()
        self._policy.authorize(caller, "ReadUsage", Resource(type="Usage", id=caller.tenant, tenant=caller.tenant))
        catalogue = self._catalogue.current()
        if request.against not in catalogue.models and request.against not in catalogue.routes:
            raise UnknownModel(f"there is no model or route {request.against}", field="against")
        asked = convert_routing.comparison_asked(request)
        async with aclosing(self._comparisons.run(caller, *asked)) as events:
            async for event in events:
                yield convert_routing.comparison_event(event)

    async def _entries(self, caller: Caller) -> list[pb.Model]:
        catalogue = self._catalogue.current()
        measured = self._measurements.current()
        entries: dict[str, pb.Model] = {}
        for name, model in catalogue.models.items():
            if self._policy.decide(caller, *use_of(caller, model)).allowed:
                admission = await self._health.peek(name)
                entries[name] = convert_routing.model_entry(model, admission, measured.get(name, UNMEASURED))
        routes = [
            convert_routing.route_entry(route, entries)
            for route in catalogue.routes.values()
            if any(model.name in entries for model in route.candidates)
        ]
        return sorted([*entries.values(), *routes], key=lambda entry: entry.name)
