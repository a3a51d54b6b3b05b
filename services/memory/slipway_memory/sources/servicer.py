"""SourcesService over the domain."""

from __future__ import annotations

from typing import Any

import grpc
from slipway.memory.v1 import sources_pb2 as pb
from slipway.memory.v1 import sources_pb2_grpc
from slipway_chassis.caller import current_caller

from slipway_memory.sources import convert
from slipway_memory.sources.queries import Queries
from slipway_memory.sources.sources import Sources

Context = grpc.aio.ServicerContext[Any, Any]


class SourcesServicer(sources_pb2_grpc.SourcesServiceServicer):
    """Converts and calls."""

    def __init__(self, sources: Sources, queries: Queries) -> None:
        self._sources = sources
        self._queries = queries

    async def PutSource(self, request: pb.PutSourceRequest, context: Context) -> pb.PutSourceResponse:
        """See proto."""
        put = await self._sources.put(current_caller(), convert.declaration(request), request.request_id)
        return pb.PutSourceResponse(source=convert.source_message(put.source), created=put.created)

    async def GetSource(self, request: pb.GetSourceRequest, context: Context) -> pb.GetSourceResponse:
        """See proto."""
        source = await self._sources.get(current_caller(), request.source)
        return pb.GetSourceResponse(source=convert.source_message(source))

    async def ListSources(self, request: pb.ListSourcesRequest, context: Context) -> pb.ListSourcesResponse:
        """See proto."""
        page, token = await self._sources.list(current_caller(), size=request.page_size, token=request.page_token)
        return pb.ListSourcesResponse(sources=map(convert.source_message, page), next_page_token=token)

    async def DeleteSource(self, request: pb.DeleteSourceRequest, context: Context) -> pb.DeleteSourceResponse:
        """See proto."""
        await self._sources.delete(current_caller(), request.source, request.request_id)
        return pb.DeleteSourceResponse()

    async def QuerySource(self, request: pb.QuerySourceRequest, context: Context) -> pb.QuerySourceResponse:
        """See proto."""
        return convert.answer(await self._queries.query(current_caller(), convert.query(request)))
