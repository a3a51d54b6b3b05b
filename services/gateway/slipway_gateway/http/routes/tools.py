"""Tools: what agents can do."""

from typing import Annotated

from fastapi import Path, Request, Response
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.calls import TOOL_SECONDS, unless_disconnected
from slipway_gateway.http.resources.fields import json_text
from slipway_gateway.http.resources.tools import (
    InvokeTool,
    PutTool,
    Tool,
    ToolPage,
    ToolResult,
    http_tool,
    tool_resource,
    tool_result,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("tools")

ToolName = Annotated[str, Path(min_length=1, max_length=64)]


@router.get("/tools", summary="List tools")
async def list_tools(calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = "") -> ToolPage:
    """Tools that the caller may see, by name."""
    answer: pb.ListToolsResponse = await calls.invoke(
        calls.peers.tools.ListTools, pb.ListToolsRequest(page_size=page_size, page_token=page_token)
    )
    return ToolPage(
        tools=[tool_resource(item) for item in answer.tools], next_page_token=answer.next_page_token or None
    )


@router.get("/tools/{tool}", summary="Get a tool")
async def get_tool(tool: ToolName, calls: CallsDep) -> Tool:
    """One tool, with the schemas of its arguments and output."""
    answer: pb.GetToolResponse = await calls.invoke(calls.peers.tools.GetTool, pb.GetToolRequest(tool=tool))
    return tool_resource(answer.tool)


@router.put(
    "/tools/{tool}",
    status_code=201,
    responses={200: {"model": Tool, "description": "The tool existed and was changed."}},
    summary="Declare an HTTP tool",
)
async def put_tool(
    tool: ToolName, body: PutTool, calls: CallsDep, request_id: IdempotencyKey, response: Response
) -> Tool:
    """Secrets stand in the tools service; a declaration refers to them as `secret:NAME`."""
    answer: pb.PutToolResponse = await calls.invoke(
        calls.peers.tools.PutTool,
        pb.PutToolRequest(
            tool=tool,
            description=body.description,
            input_schema_json=json_text(body.input_schema),
            output_schema_json=json_text(body.output_schema) if body.output_schema is not None else "",
            http=http_tool(body.http),
            idempotent=body.idempotent,
            regions=body.regions,
            request_id=request_id,
        ),
    )
    response.status_code = 201 if answer.created else 200
    return tool_resource(answer.tool)


@router.post("/tools/{tool}/invoke", summary="Invoke a tool")
async def invoke_tool(tool: ToolName, body: InvokeTool, request: Request, calls: CallsDep) -> ToolResult:
    """A tool that ran and failed is an answer with `error`; a problem means that it did not run."""
    message = pb.InvokeToolRequest(
        tool=tool,
        arguments_json=json_text(body.arguments),
        regions=body.regions or [],
        regions_demanded=body.regions is not None,
    )
    answer: pb.InvokeToolResponse = await unless_disconnected(
        request, calls.invoke(calls.peers.tools.InvokeTool, message, timeout=TOOL_SECONDS)
    )
    return tool_result(answer)
