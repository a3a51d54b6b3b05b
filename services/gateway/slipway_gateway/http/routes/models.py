"""The catalogue in OpenAI's wire format."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Path, Response
from fastapi.responses import JSONResponse
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import NotFound

from slipway_gateway.http.api import api_router
from slipway_gateway.http.calls import Calls
from slipway_gateway.http.openai import answers
from slipway_gateway.http.openai.schemas import Model, ModelList
from slipway_gateway.http.route import CallsDep

router = api_router("openai")


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
