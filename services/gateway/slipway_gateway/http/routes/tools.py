"""Tools: what agents can do."""

from typing import Annotated

from fastapi import Path, Query, Request, Response
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.calls import TOOL_SECONDS, unless_disconnected
from slipway_gateway.http.resources.fields import json_text
from slipway_gateway.http.resources.tools import (
    ImportedTools,
    ImportTools,
    InvokeTool,
    PutTool,
    Tool,
    ToolPage,
    ToolPolicy,
    ToolResult,
    import_request,
    put_request,
    tool_resource,
    tool_result,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("tools")

ToolName = Annotated[str, Path(min_length=1, max_length=64)]
VersionQuery = Annotated[int, Query(ge=0, le=2**31 - 1, description="0: the newest.")]


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
async def get_tool(tool: ToolName, calls: CallsDep, version: VersionQuery = 0) -> Tool:
    """One tool, with the schemas of its arguments and output."""
    request = pb.GetToolRequest(tool=tool, version=version)
    answer: pb.GetToolResponse = await calls.invoke(calls.peers.tools.GetTool, request)
    return tool_resource(answer.tool)


@router.get("/tools/{tool}/versions", summary="List a tool's versions")
async def list_tool_versions(
    tool: ToolName, calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> ToolPage:
    """Versions of a declared tool, newest first."""
    request = pb.ListToolVersionsRequest(tool=tool, page_size=page_size, page_token=page_token)
    answer: pb.ListToolVersionsResponse = await calls.invoke(calls.peers.tools.ListToolVersions, request)
    return ToolPage(
        tools=[tool_resource(item) for item in answer.tools], next_page_token=answer.next_page_token or None
    )


@router.get("/tools/{tool}/policy", summary="Ask what policy says of a call")
async def describe_tool(
    tool: ToolName,
    calls: CallsDep,
    version: VersionQuery = 0,
    arguments_tainted: Annotated[bool, Query(description="Arguments derive from what came from outside.")] = False,
) -> ToolPolicy:
    """What would be decided of a call by this caller, without calling."""
    request = pb.DescribeToolRequest(tool=tool, version=version, arguments_tainted=arguments_tainted)
    answer: pb.DescribeToolResponse = await calls.invoke(calls.peers.tools.DescribeTool, request)
    return ToolPolicy(
        tool=tool_resource(answer.tool),
        allowed=answer.allowed,
        approval_required=answer.approval_required,
        policies=list(answer.policies),
        policy_digest=answer.policy_digest,
    )


@router.post("/tools/import", status_code=201, summary="Import an OpenAPI document")
async def import_tools(body: ImportTools, calls: CallsDep) -> ImportedTools:
    """Declares an HTTP tool for each operation, all or none."""
    answer: pb.ImportOpenApiResponse = await calls.invoke(calls.peers.tools.ImportOpenApi, import_request(body))
    return ImportedTools(tools=[tool_resource(item) for item in answer.tools])


@router.put(
    "/tools/{tool}",
    status_code=201,
    responses={200: {"model": Tool, "description": "The tool existed and was changed."}},
    summary="Declare a tool",
)
async def put_tool(
    tool: ToolName, body: PutTool, calls: CallsDep, request_id: IdempotencyKey, response: Response
) -> Tool:
    """Secrets stand in the tools service; a declaration refers to them as `secret:NAME`."""
    answer: pb.PutToolResponse = await calls.invoke(calls.peers.tools.PutTool, put_request(tool, body, request_id))
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
        arguments_tainted=body.arguments_tainted,
        version=body.version,
    )
    answer: pb.InvokeToolResponse = await unless_disconnected(
        request, calls.invoke(calls.peers.tools.InvokeTool, message, timeout=TOOL_SECONDS)
    )
    return tool_result(answer)
