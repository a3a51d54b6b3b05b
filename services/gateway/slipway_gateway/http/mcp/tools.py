"""The tenant's tools over MCP: as the tools service lists them to this caller, called as over HTTP."""

import json
from typing import Any

import mcp_types as types
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.calls import TOOL_SECONDS, Calls
from slipway_gateway.http.mcp import results
from slipway_gateway.http.resources.fields import json_text

_PAGE = 200
_MOST = 1000
_ARGUMENTS_TAINTED = "dev.slipway/arguments-tainted"


async def listed(calls: Calls) -> list[types.Tool]:
    """Tools that the caller may see and that can be called, at most a thousand."""
    found: list[types.Tool] = []
    token = ""
    while True:
        page: pb.ListToolsResponse = await calls.invoke(
            calls.peers.tools.ListTools, pb.ListToolsRequest(page_size=_PAGE, page_token=token)
        )
        found += [_tool(tool) for tool in page.tools if not tool.quarantine]
        token = page.next_page_token
        if not token or len(found) >= _MOST:
            return found[:_MOST]


def _tool(tool: pb.Tool) -> types.Tool:
    output = json.loads(tool.output_schema_json) if tool.output_schema_json else None
    return types.Tool(
        name=tool.tool,
        description=tool.description,
        input_schema=json.loads(tool.input_schema_json),
        # Revisions before 2026-07-28 know objects only.
        output_schema=output if isinstance(output, dict) and output.get("type") == "object" else None,
        annotations=types.ToolAnnotations(
            read_only_hint=tool.side_effect == pb.SIDE_EFFECT_READ,
            destructive_hint=tool.side_effect == pb.SIDE_EFFECT_DESTRUCTIVE,
            idempotent_hint=tool.idempotent,
            open_world_hint=tool.egress,
        ),
    )


def says_tainted(meta: Any) -> bool:
    """Whether a client says that the arguments of its call derive from what came from outside."""
    return bool(meta and meta.get(_ARGUMENTS_TAINTED))


async def call(calls: Calls, name: str, arguments: dict[str, Any], *, tainted: bool) -> types.CallToolResult:
    """Call a tool; raises what the tools service raises."""
    request = pb.InvokeToolRequest(tool=name, arguments_json=json_text(arguments), arguments_tainted=tainted)
    result: pb.InvokeToolResponse = await calls.invoke(calls.peers.tools.InvokeTool, request, timeout=TOOL_SECONDS)
    notes = [
        f"{label}:\n{printed}" for label, printed in (("stdout", result.stdout), ("stderr", result.stderr)) if printed
    ]
    marks = {results.RECORD: result.record.event_id, results.TAINTED: result.output_tainted}
    if result.HasField("error"):
        error = result.error
        told = [results.text(f"{error.code}: {error.message}"), *(results.text(note) for note in notes)]
        return types.CallToolResult(content=list(told), is_error=True, _meta=marks)
    output = json.loads(result.output_json) if result.output_json else None
    return results.answer(output, notes=notes, meta=marks, of_mcp=result.kind == "mcp")
