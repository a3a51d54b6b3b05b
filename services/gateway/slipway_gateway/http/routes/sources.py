"""Governed data sources: databases that are queried within what is declared and permitted."""

from typing import Annotated, Final

from fastapi import Path, Request, Response
from slipway.memory.v1 import sources_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.calls import unless_disconnected
from slipway_gateway.http.resources.sources import (
    PutSource,
    QueryResult,
    QuerySource,
    Source,
    SourcePage,
    put_request,
    query_request,
    query_result,
    source_resource,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("sources")

SourceName = Annotated[str, Path(min_length=1, max_length=63)]
# The longest query that the memory service may be set up for, and its checks.
_QUERY_SECONDS: Final = 320.0


@router.put(
    "/sources/{source}",
    status_code=201,
    response_model_by_alias=True,
    responses={200: {"model": Source, "description": "The data source existed and was changed."}},
    summary="Declare a data source",
)
async def put_source(
    source: SourceName, body: PutSource, calls: CallsDep, request_id: IdempotencyKey, response: Response
) -> Source:
    """The database's URL stands with the memory service; a declaration refers to it as `secret:NAME` or `file:NAME`."""
    answer: pb.PutSourceResponse = await calls.invoke(
        calls.peers.sources.PutSource, put_request(source, body, request_id)
    )
    response.status_code = 201 if answer.created else 200
    return source_resource(answer.source)


@router.get("/sources", summary="List data sources")
async def list_sources(calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = "") -> SourcePage:
    """Data sources that the caller may read, by name."""
    answer: pb.ListSourcesResponse = await calls.invoke(
        calls.peers.sources.ListSources, pb.ListSourcesRequest(page_size=page_size, page_token=page_token)
    )
    return SourcePage.model_construct(
        sources=[source_resource(item) for item in answer.sources], next_page_token=answer.next_page_token or None
    )


@router.get("/sources/{source}", summary="Get a data source")
async def get_source(source: SourceName, calls: CallsDep) -> Source:
    """One data source, with its tables and columns."""
    answer: pb.GetSourceResponse = await calls.invoke(calls.peers.sources.GetSource, pb.GetSourceRequest(source=source))
    return source_resource(answer.source)


@router.delete("/sources/{source}", status_code=204, summary="Forget a data source")
async def delete_source(source: SourceName, calls: CallsDep, request_id: IdempotencyKey) -> None:
    """Its database is left alone."""
    await calls.invoke(calls.peers.sources.DeleteSource, pb.DeleteSourceRequest(source=source, request_id=request_id))


@router.post("/sources/{source}/query", summary="Query a data source")
async def query_source(source: SourceName, body: QuerySource, request: Request, calls: CallsDep) -> QueryResult:
    """One SELECT over declared tables and columns, as the caller; rows are filtered and columns masked as declared."""
    answer: pb.QuerySourceResponse = await unless_disconnected(
        request,
        calls.invoke(calls.peers.sources.QuerySource, query_request(source, body), timeout=_QUERY_SECONDS),
    )
    return query_result(answer)
