"""Tools and what they answer."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Page, Resource, json_of, time_of
from slipway_gateway.http.resources.knowledge import Region

Header = Annotated[str, StringConstraints(max_length=4096)]


class HttpDeclaration(Command):
    """How an HTTP tool is called."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: str = Field(min_length=1, max_length=2048, description="`{name}` segments are filled from the arguments.")
    headers: dict[str, Header] = Field(
        {}, max_length=32, description="A value of the form `secret:NAME` refers to the tools service's secrets."
    )
    idempotency_header: str = Field("", max_length=100, description="Empty: `Idempotency-Key`.")
    timeout_seconds: float | None = Field(None, ge=0.1, le=300, description="Absent: 30.")


class Tool(Resource):
    """Something that an agent can call."""

    tool: str
    kind: str = Field(description="`builtin` or `http`.")
    description: str
    input_schema: JsonValue
    output_schema: JsonValue
    idempotent: bool
    regions: list[str]
    digest: str
    http: HttpDeclaration | None
    create_time: datetime | None
    update_time: datetime | None


class ToolPage(Page):
    """A page of tools, by name."""

    tools: list[Tool]


class PutTool(Command):
    """An HTTP tool to declare."""

    description: str = Field(min_length=1, max_length=2000)
    input_schema: dict[str, JsonValue] = Field(description="JSON Schema of the arguments; an object schema.")
    output_schema: dict[str, JsonValue] | None = Field(None, description="JSON Schema of the output; absent: any.")
    http: HttpDeclaration
    idempotent: bool = Field(False, description="True when the target honours the idempotency key.")
    regions: list[Region] = Field([], max_length=32)


class InvokeTool(Command):
    """A call of a tool."""

    arguments: dict[str, JsonValue] = Field({})
    regions: list[Region] | None = Field(None, max_length=32, description="Demanded regions; an empty list is refused.")


class ToolError(Resource):
    """A failure of the tool itself."""

    code: str
    message: str
    retryable: bool
    retry_after_seconds: float | None


class ToolResult(Resource):
    """What a tool answered; a tool that ran and failed is an answer with `error`."""

    output: JsonValue
    stdout: str
    stderr: str
    error: ToolError | None
    duration_ms: int
    exit_status: int
    sandbox: str | None


def tool_resource(message: pb.Tool) -> Tool:
    """Converts a tool."""
    return Tool(
        tool=message.tool,
        kind=message.kind,
        description=message.description,
        input_schema=json_of(message.input_schema_json),
        output_schema=json_of(message.output_schema_json),
        idempotent=message.idempotent,
        regions=list(message.regions),
        digest=message.digest,
        http=_declaration(message.http) if message.HasField("http") else None,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )


def _declaration(message: pb.HttpTool) -> HttpDeclaration:
    return HttpDeclaration.model_construct(
        method=message.method,
        url=message.url,
        headers=dict(message.headers),
        idempotency_header=message.idempotency_header,
        timeout_seconds=message.timeout.ToTimedelta().total_seconds() if message.HasField("timeout") else None,
    )


def http_tool(declaration: HttpDeclaration) -> pb.HttpTool:
    """Converts a declaration."""
    message = pb.HttpTool(
        method=declaration.method,
        url=declaration.url,
        headers=declaration.headers,
        idempotency_header=declaration.idempotency_header,
    )
    if declaration.timeout_seconds is not None:
        message.timeout.FromMilliseconds(round(declaration.timeout_seconds * 1000))
    return message


def tool_result(message: pb.InvokeToolResponse) -> ToolResult:
    """Converts an answer."""
    error = message.error
    wait = error.retry_after.ToTimedelta().total_seconds() if error.HasField("retry_after") else None
    return ToolResult(
        output=json_of(message.output_json),
        stdout=message.stdout,
        stderr=message.stderr,
        error=ToolError(code=error.code, message=error.message, retryable=error.retryable, retry_after_seconds=wait)
        if message.HasField("error")
        else None,
        duration_ms=message.duration_ms,
        exit_status=message.exit_status,
        sandbox=message.sandbox or None,
    )
