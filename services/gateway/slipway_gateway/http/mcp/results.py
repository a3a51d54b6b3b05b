"""Results of MCP calls, and how errors of the services are told to an MCP client."""

import contextlib
import json
from typing import Any, Final

import mcp_types as types
from mcp import MCPError
from pydantic import TypeAdapter, ValidationError
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.telemetry import current_trace_id

TAINTED: Final = "dev.slipway/tainted"
RECORD: Final = "dev.slipway/record"
_BLOCKS: TypeAdapter[list[types.ContentBlock]] = TypeAdapter(list[types.ContentBlock])

# What the client itself got wrong, or what waiting helps against: errors of the protocol, not results of a tool.
_CODES = {
    ErrorKind.NOT_FOUND: types.INVALID_PARAMS,
    ErrorKind.INTERNAL: types.INTERNAL_ERROR,
    ErrorKind.UNAVAILABLE: types.INTERNAL_ERROR,
    ErrorKind.DEADLINE_EXCEEDED: types.INTERNAL_ERROR,
    ErrorKind.UNIMPLEMENTED: types.METHOD_NOT_FOUND,
}


def protocol_error(error: SlipwayError) -> MCPError:
    """An error as JSON-RPC has it, with the same code as the HTTP API's problems."""
    internal = error.kind is ErrorKind.INTERNAL
    trace_id = getattr(error, "trace_id", "") or current_trace_id()
    message = f"internal error (trace {trace_id})" if internal else error.message
    return MCPError(
        _CODES.get(error.kind, types.INVALID_REQUEST), message, {"code": error.reason, "trace_id": trace_id}
    )


def refusal(error: SlipwayError) -> types.CallToolResult:
    """What a model can read and act on: wrong arguments, a denial, an approval that is needed, a limit.

    Raises:
        MCPError: what is no answer of the tool.
    """
    if error.kind in _CODES:
        raise protocol_error(error) from error
    lines = [f"{error.reason}: {error.message}"]
    lines += [f"{item.field}: {item.message}" for item in error.violations if item.message != error.message]
    return types.CallToolResult(content=[text("\n".join(lines))], is_error=True)


def _blocks_of(output: Any) -> list[types.ContentBlock]:
    """What another MCP server answered, as the blocks that it sent; what is none is JSON text."""
    if isinstance(output, dict) and output.keys() == {"text", "content"}:
        with contextlib.suppress(ValidationError):
            return _BLOCKS.validate_python(output["content"])
    return [_json_text(output)]


def _json_text(output: Any) -> types.TextContent:
    return text(json.dumps(output, ensure_ascii=False))


def text(content: str) -> types.TextContent:
    """A block of text."""
    return types.TextContent(type="text", text=content)


def answer(
    output: Any, *, notes: list[str] | None = None, meta: dict[str, Any] | None = None, of_mcp: bool = False
) -> types.CallToolResult:
    """A result: the output as JSON text, and as structured content where it is an object, as all revisions allow.

    Only what a tool of another MCP server answered (`of_mcp`, checked by the tools service) is handed on as blocks:
    a program or a model could else write links, and marks of the platform's own, into its output.
    """
    blocks = [*(_blocks_of(output) if of_mcp else [_json_text(output)]), *(text(note) for note in notes or [])]
    result = types.CallToolResult(content=blocks, _meta=meta or None)
    if isinstance(output, dict):
        result.structured_content = output
    return result
