"""Knowledge: collections and the search in them."""

from typing import Annotated

from fastapi import Path, Response
from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.calls import SEARCH_SECONDS
from slipway_gateway.http.resources.knowledge import (
    Collection,
    CollectionPage,
    PutCollection,
    Search,
    SearchResult,
    collection_resource,
    passage,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("knowledge")

CollectionName = Annotated[str, Path(min_length=1, max_length=63)]


@router.put(
    "/collections/{collection}",
    status_code=201,
    responses={200: {"model": Collection, "description": "The collection existed and was changed."}},
    summary="Create or change a collection",
)
async def put_collection(
    collection: CollectionName, body: PutCollection, calls: CallsDep, request_id: IdempotencyKey, response: Response
) -> Collection:
    """The embedding model is fixed at creation."""
    answer: pb.PutCollectionResponse = await calls.invoke(
        calls.peers.knowledge.PutCollection,
        pb.PutCollectionRequest(
            collection=collection,
            description=body.description,
            embedding_model=body.embedding_model,
            regions=body.regions,
            request_id=request_id,
        ),
    )
    response.status_code = 201 if answer.created else 200
    return collection_resource(answer.collection)


@router.get("/collections", summary="List collections")
async def list_collections(
    calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> CollectionPage:
    """Collections that the caller may read, by name."""
    answer: pb.ListCollectionsResponse = await calls.invoke(
        calls.peers.knowledge.ListCollections, pb.ListCollectionsRequest(page_size=page_size, page_token=page_token)
    )
    return CollectionPage(
        collections=[collection_resource(item) for item in answer.collections],
        next_page_token=answer.next_page_token or None,
    )


@router.get("/collections/{collection}", summary="Get a collection")
async def get_collection(collection: CollectionName, calls: CallsDep) -> Collection:
    """One collection, with its counts."""
    answer: pb.GetCollectionResponse = await calls.invoke(
        calls.peers.knowledge.GetCollection, pb.GetCollectionRequest(collection=collection)
    )
    return collection_resource(answer.collection)


@router.post("/collections/{collection}/search", summary="Search a collection")
async def search_collection(collection: CollectionName, body: Search, calls: CallsDep) -> SearchResult:
    """Passages by meaning and words, from documents that the caller may read."""
    message = pb.SearchCollectionRequest(
        collection=collection,
        query=body.query,
        limit=body.limit,
        metadata=body.metadata,
        regions=body.regions or [],
        regions_demanded=body.regions is not None,
    )
    if body.alpha is not None:
        message.alpha = body.alpha
    answer: pb.SearchCollectionResponse = await calls.invoke(
        calls.peers.knowledge.SearchCollection, message, timeout=SEARCH_SECONDS
    )
    return SearchResult(passages=[passage(item) for item in answer.passages])
