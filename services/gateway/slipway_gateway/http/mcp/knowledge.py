"""Search in the tenant's knowledge over MCP, with the caller's own access to documents."""

from typing import Any, Final

import mcp_types as types
from pydantic import Field
from slipway.memory.v1 import memory_pb2 as pb

from slipway_gateway.http.calls import SEARCH_SECONDS, Calls
from slipway_gateway.http.mcp import results
from slipway_gateway.http.mcp.arguments import read
from slipway_gateway.http.resources.fields import Command
from slipway_gateway.http.resources.knowledge import passage

SEARCH: Final = "knowledge.search"
_NAMED = 50


class SearchArguments(Command):
    """What to look for, and where."""

    collection: str = Field(min_length=1, max_length=63)
    query: str = Field(min_length=1, max_length=4000)
    limit: int = Field(5, ge=1, le=50, description="Most passages.")


async def listed(calls: Calls) -> list[types.Tool]:
    """The search, when the caller may read a collection; it names the first fifty."""
    page: pb.ListCollectionsResponse = await calls.invoke(
        calls.peers.knowledge.ListCollections, pb.ListCollectionsRequest(page_size=_NAMED)
    )
    if not page.collections:
        return []
    known = "\n".join(f"- {item.collection}: {item.description}"[:200] for item in page.collections)
    return [
        types.Tool(
            name=SEARCH,
            description=f"Finds passages in a collection of documents by meaning and words. Collections:\n{known}",
            input_schema=SearchArguments.model_json_schema(),
            annotations=types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
        )
    ]


async def search(calls: Calls, arguments: dict[str, Any]) -> types.CallToolResult:
    """Passages, best first; what documents say comes from outside and is marked so.

    Raises:
        InvalidToolArguments, and what memory raises.
    """
    wanted = read(SearchArguments, arguments)
    request = pb.SearchCollectionRequest(collection=wanted.collection, query=wanted.query, limit=wanted.limit)
    answer: pb.SearchCollectionResponse = await calls.invoke(
        calls.peers.knowledge.SearchCollection, request, timeout=SEARCH_SECONDS
    )
    passages = [passage(item).model_dump(mode="json") for item in answer.passages]
    return results.answer({"passages": passages}, meta={results.TAINTED: True})
