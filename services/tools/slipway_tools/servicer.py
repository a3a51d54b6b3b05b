"""slipway.tools.v1 over gRPC: converts and calls."""

from typing import Any

from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis import paging
from slipway_chassis.caller import current_caller

from slipway_tools import convert
from slipway_tools.invocation import Invoker
from slipway_tools.registry import Registry

_DEFAULT_PAGE, _LONGEST_PAGE = 100, 200


class ToolsServicer(tools_pb2_grpc.ToolsServiceServicer):
    """Registers and invokes tools."""

    def __init__(self, registry: Registry, invoker: Invoker) -> None:
        self._registry = registry
        self._invoker = invoker

    async def PutTool(self, request: tools_pb2.PutToolRequest, context: Any) -> tools_pb2.PutToolResponse:
        """Declare an HTTP tool."""
        tool, created = await self._registry.put(current_caller(), convert.declaration(request), request.request_id)
        return tools_pb2.PutToolResponse(tool=convert.tool(tool), created=created)

    async def GetTool(self, request: tools_pb2.GetToolRequest, context: Any) -> tools_pb2.GetToolResponse:
        """Answer with one tool."""
        tool, _ = await self._registry.find(current_caller(), request.tool, "ReadTool")
        return tools_pb2.GetToolResponse(tool=convert.tool(tool))

    async def ListTools(self, request: tools_pb2.ListToolsRequest, context: Any) -> tools_pb2.ListToolsResponse:
        """Page through the tools that the caller may read."""
        caller = current_caller()
        size = paging.page_size(request.page_size, _DEFAULT_PAGE, _LONGEST_PAGE)
        fields = paging.decode_token(caller.tenant, "ListTools", request.page_token, (str,))
        tools, after = await self._registry.page(caller, str(fields[0]) if fields else "", size)
        token = paging.encode_token(caller.tenant, "ListTools", after) if after else ""
        return tools_pb2.ListToolsResponse(tools=[convert.tool(tool) for tool in tools], next_page_token=token)

    async def InvokeTool(self, request: tools_pb2.InvokeToolRequest, context: Any) -> tools_pb2.InvokeToolResponse:
        """Perform a tool."""
        answer = await self._invoker.invoke(current_caller(), convert.invocation(request))
        return convert.answer(answer)
