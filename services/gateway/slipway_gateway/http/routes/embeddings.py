"""Embeddings in OpenAI's wire format."""

from fastapi import Response
from slipway.router.v1 import router_pb2 as pb

from slipway_gateway.http.api import api_router
from slipway_gateway.http.calls import MODEL_SECONDS
from slipway_gateway.http.openai import answers
from slipway_gateway.http.openai.requests import EmbeddingsRequest, embeddings_request
from slipway_gateway.http.openai.schemas import EmbeddingList
from slipway_gateway.http.resources.fields import dollars_text
from slipway_gateway.http.route import CallsDep

router = api_router("openai")


@router.post(
    "/embeddings",
    response_model=None,
    responses={200: {"model": EmbeddingList, "description": "A vector for each input, in order."}},
    summary="Create embeddings",
)
async def create_embeddings(body: EmbeddingsRequest, calls: CallsDep) -> Response:
    """Any OpenAI SDK works with this base URL."""
    answer: pb.CreateEmbeddingsResponse = await calls.invoke(
        calls.peers.router.CreateEmbeddings, embeddings_request(body), timeout=MODEL_SECONDS
    )
    headers = {
        "x-slipway-model": answer.catalogue_model,
        "x-slipway-cost-usd": dollars_text(answer.usage.cost),
        "x-slipway-request-id": answer.request_id,
    }
    return answers.JsonAnswer(answers.embeddings(answer, body.encoding_format), headers=headers)
