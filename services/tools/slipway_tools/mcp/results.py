"""From what an MCP server answered to a tool's result: checked for size and type, and marked as from outside.

Structured content is the output as it is. Without it the output is `{"text": …, "content": […]}`: the blocks that were
sent, and the texts among them, a line each.
Nothing in a result is followed: links are not fetched, instructions are text.
"""

from typing import Any, cast

from slipway_tools import jsontext, schema
from slipway_tools.jsontext import InvalidJson
from slipway_tools.mcp.peer import RESULT_LIMIT, Reply
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.tool import Declaration

_BLOCKS = {
    "text": ("text",),
    "image": ("data", "mimeType"),
    "audio": ("data", "mimeType"),
    "resource_link": ("uri", "name", "description", "mimeType", "size"),
    "resource": ("resource",),
}
_MESSAGE_LIMIT = 2000


def read(declaration: Declaration, reply: Reply) -> ToolResult:
    """The result of a call, or why it can't be used."""
    evidence = {"mcp_protocol": reply.protocol_version, **reply.evidence}

    def failed(code: str, message: str) -> ToolResult:
        # The call was made: to try again is to make it again.
        return ToolResult(failure=ToolFailure(code, message), evidence=evidence)

    blocks = _blocks(reply.result.get("content"))
    if blocks is None:
        return failed("INVALID_RESULT", "The MCP server's result has no content that can be read.")
    texts = "\n".join(block["text"] for block in blocks if block["type"] == "text")
    if reply.result.get("isError"):
        return failed("TOOL_ERROR", f"The tool answered with an error: {texts[:_MESSAGE_LIMIT]!r}")
    structured = reply.result.get("structuredContent")
    if structured is None and declaration.output_schema is not None:
        return failed("INVALID_RESULT", "The MCP server's result has no structured content, which its schema promises.")
    output: Any = structured if structured is not None else {"text": texts, "content": blocks}
    try:
        text = jsontext.compact(jsontext.parse(jsontext.compact(output), field="output", limit=RESULT_LIMIT))
    except InvalidJson as error:
        code = "OUTPUT_TOO_LARGE" if "at most" in error.message else "INVALID_RESULT"
        return failed(code, f"The MCP server's result {error.message}.")
    except ValueError:
        return failed("INVALID_RESULT", "The MCP server's result holds numbers that JSON does not have.")
    if declaration.output_schema is not None and (wrong := schema.violations(declaration.output_schema, output)):
        message = f"The result does not fit the output schema: {wrong[0].field} {wrong[0].message}."
        return failed("INVALID_RESULT", message)
    return ToolResult(output_json=text, evidence=evidence)


def _blocks(content: Any) -> list[dict[str, Any]] | None:
    """The blocks with the members that are known, or None when it is no list of known blocks."""
    if not isinstance(content, list):
        return None
    blocks: list[dict[str, Any]] = []
    for item in cast("list[Any]", content):
        if not isinstance(item, dict):
            return None
        block = cast("dict[str, Any]", item)
        members = _BLOCKS.get(str(block.get("type")))
        if members is None or (block["type"] == "text" and not isinstance(block.get("text"), str)):
            return None
        blocks.append({"type": block["type"], **{name: block[name] for name in members if name in block}})
    return blocks
