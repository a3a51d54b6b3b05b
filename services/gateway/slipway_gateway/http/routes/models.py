"""The catalogue in OpenAI's wire format."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import Path, Response
from fastapi.responses import JSONResponse
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import NotFound, Unavailable

from slipway_gateway.http.api import api_router
from slipway_gateway.http.calls import MODEL_SECONDS, Calls
from slipway_gateway.http.openai import answers
from slipway_gateway.http.openai.requests import chat_request
from slipway_gateway.http.openai.schemas import Model, ModelList
from slipway_gateway.http.resources.models import (
    ComparedCall,
    CompareRequest,
    Comparison,
    Decision,
    ExplainRequest,
    SentDecision,
    compare_request,
    compared_call,
    comparison,
    decision,
    sent_decision,
)
from slipway_gateway.http.route import CallsDep

router = api_router("openai")


class ComparisonIncomplete(Unavailable):
    """The router broke off in the middle."""

    reason = "COMPARISON_INCOMPLETE"


class ModelNotFound(NotFound):
    """The catalogue has no such model for this caller."""

    reason = "MODEL_NOT_FOUND"


@router.get("/models", response_model=None, responses={200: {"model": ModelList}}, summary="List models and routes")
async def list_models(calls: CallsDep) -> Response:
    """Models and routes that the caller may use, all at once as OpenAI answers."""
    return JSONResponse({"object": "list", "data": [answers.model(item) async for item in _catalogue(calls)]})


@router.get("/models/{model:path}", response_model=None, responses={200: {"model": Model}}, summary="Get a model")
async def get_model(model: Annotated[str, Path(max_length=200)], calls: CallsDep) -> Response:
    """One entry of the catalogue."""
    async for item in _catalogue(calls):
        if item.name == model:
            return JSONResponse(answers.model(item))
    raise ModelNotFound(f"there is no model {model}", field="model")


@router.post("/models/explain", summary="Explain which model a request would go to")
async def explain(body: ExplainRequest, calls: CallsDep) -> Decision:
    """A chat completion that is not sent: each candidate, why it is left out, and its score. Where no task is stated
    and the catalogue has a classifier, that is asked, and its embedding is billed."""
    request = pb.ExplainRouteRequest(chat=chat_request(body, ""))
    answer: pb.ExplainRouteResponse = await calls.invoke(calls.peers.router.ExplainRoute, request)
    return decision(answer)


@router.post("/models/compare", summary="Compare a route with another on recorded traffic")
async def compare(body: CompareRequest, calls: CallsDep) -> Comparison:
    """Requests that the route has recorded (`record_percent`) are answered anew by the model or route `against`, as
    calls of yours, within the regions and data classes that they demanded. Figures are compared; texts are not shown.
    """
    compared: list[ComparedCall] = []
    events = calls.stream(calls.peers.router.CompareRoutes, compare_request(body), timeout=MODEL_SECONDS)
    async with aclosing(events):
        async for event in events:
            if event.HasField("summary"):
                return comparison(compared, event.summary)
            compared.append(compared_call(event.call))
    raise ComparisonIncomplete("the comparison ended before it was whole")


@router.get("/usage/{request_id}/routing", summary="How the model of a call was chosen")
async def get_routing(request_id: Annotated[str, Path(max_length=64)], calls: CallsDep) -> SentDecision:
    """The candidates of the call whose answer carried this `x-slipway-request-id`, why each was left out, the scores,
    and how the attempts went."""
    answer: pb.GetRouteDecisionResponse = await calls.invoke(
        calls.peers.router.GetRouteDecision, pb.GetRouteDecisionRequest(request_id=request_id)
    )
    return sent_decision(request_id, answer)


async def _catalogue(calls: Calls) -> AsyncGenerator[pb.Model]:
    token = ""
    while True:
        answer: pb.ListModelsResponse = await calls.invoke(
            calls.peers.router.ListModels, pb.ListModelsRequest(page_size=200, page_token=token)
        )
        for item in answer.models:
            yield item
        token = answer.next_page_token
        if not token:
            return
