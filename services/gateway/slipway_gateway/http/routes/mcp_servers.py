"""MCP servers: connecting them, looking at what they offer, approving it."""

from typing import Annotated

from fastapi import Path, Response
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.calls import TOOL_SECONDS
from slipway_gateway.http.resources.mcp_servers import (
    ApprovedMcpTools,
    ApproveMcpTools,
    McpServer,
    McpServerPage,
    McpServerTools,
    PutMcpServer,
    connection,
    offered_tool,
    pin,
    server_resource,
)
from slipway_gateway.http.resources.tools import tool_resource
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("tools")

ServerName = Annotated[str, Path(min_length=1, max_length=32)]


@router.put(
    "/mcp-servers/{server}",
    status_code=201,
    responses={200: {"model": McpServer, "description": "The server existed; another connection voids approvals."}},
    summary="Connect an MCP server",
)
async def put_mcp_server(
    server: ServerName, body: PutMcpServer, calls: CallsDep, request_id: IdempotencyKey, response: Response
) -> McpServer:
    """Its tools are quarantined until somebody else has approved them."""
    request = pb.PutMcpServerRequest(server=server, connection=connection(body), request_id=request_id)
    answer: pb.PutMcpServerResponse = await calls.invoke(calls.peers.tools.PutMcpServer, request)
    response.status_code = 201 if answer.created else 200
    return server_resource(answer.server)


@router.get("/mcp-servers", summary="List MCP servers")
async def list_mcp_servers(
    calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> McpServerPage:
    """MCP servers that the caller may see, by name."""
    request = pb.ListMcpServersRequest(page_size=page_size, page_token=page_token)
    answer: pb.ListMcpServersResponse = await calls.invoke(calls.peers.tools.ListMcpServers, request)
    return McpServerPage(
        servers=[server_resource(item) for item in answer.servers], next_page_token=answer.next_page_token or None
    )


@router.get("/mcp-servers/{server}", summary="Get an MCP server")
async def get_mcp_server(server: ServerName, calls: CallsDep) -> McpServer:
    """One MCP server, and how it is reached."""
    request = pb.GetMcpServerRequest(server=server)
    answer: pb.GetMcpServerResponse = await calls.invoke(calls.peers.tools.GetMcpServer, request)
    return server_resource(answer.server)


@router.delete("/mcp-servers/{server}", status_code=204, summary="Disconnect an MCP server")
async def delete_mcp_server(server: ServerName, calls: CallsDep) -> Response:
    """Removes its tools and every approval of them."""
    await calls.invoke(calls.peers.tools.DeleteMcpServer, pb.DeleteMcpServerRequest(server=server))
    return Response(status_code=204)


@router.get("/mcp-servers/{server}/tools", summary="List what an MCP server offers")
async def list_mcp_server_tools(server: ServerName, calls: CallsDep) -> McpServerTools:
    """Asks the server now, and shows each tool beside what was approved of it, with a diff."""
    request = pb.ListMcpServerToolsRequest(server=server)
    answer: pb.ListMcpServerToolsResponse = await calls.invoke(
        calls.peers.tools.ListMcpServerTools, request, timeout=TOOL_SECONDS
    )
    return McpServerTools(
        tools=[offered_tool(item) for item in answer.tools],
        protocol_version=answer.protocol_version or None,
        fault=answer.fault or None,
    )


@router.post("/mcp-servers/{server}/approve", summary="Approve tools of an MCP server")
async def approve_mcp_tools(server: ServerName, body: ApproveMcpTools, calls: CallsDep) -> ApprovedMcpTools:
    """Pins tools as they were shown; one that is another by now is 409, and the server's own proposer is 403."""
    request = pb.ApproveMcpToolsRequest(server=server, tools=[pin(item) for item in body.tools])
    answer: pb.ApproveMcpToolsResponse = await calls.invoke(
        calls.peers.tools.ApproveMcpTools, request, timeout=TOOL_SECONDS
    )
    return ApprovedMcpTools(tools=[tool_resource(item) for item in answer.tools])
