"""Tools and what they answer."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints
from slipway.tools.v1 import tools_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Page, Resource, json_of, json_text, time_of
from slipway_gateway.http.resources.knowledge import Region

Header = Annotated[str, StringConstraints(max_length=4096)]
ArgumentName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Timeout = Annotated[float | None, Field(ge=0.1, le=300, description="Absent: 30.")]
SideEffect = Literal["read", "write", "destructive"]


class HttpDeclaration(Command):
    """How an HTTP tool is called."""

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    url: str = Field(min_length=1, max_length=2048, description="`{name}` segments are filled from the arguments.")
    headers: dict[str, Header] = Field(
        {}, max_length=32, description="A value of the form `secret:NAME` refers to the tools service's secrets."
    )
    idempotency_header: str = Field("", max_length=100, description="Empty: `Idempotency-Key`.")
    timeout_seconds: Timeout = None
    query_arguments: list[ArgumentName] = Field(
        [], max_length=100, description="Arguments that go into the query whatever the method."
    )
    header_arguments: dict[ArgumentName, Header] = Field(
        {}, max_length=32, description="Arguments that go into headers, with the header's name."
    )
    body_argument: str = Field(
        "", max_length=200, description="Argument that is the whole JSON body; empty: an object of the rest."
    )


class PythonDeclaration(Command):
    """A function that is run in the sandbox: called with the arguments by name, its return value is the output."""

    code: str = Field(min_length=1, max_length=128 * 1024)
    function: str = Field("main", min_length=1, max_length=200)
    timeout_seconds: Timeout = None


class ShellDeclaration(Command):
    """A command that is run in the sandbox. No shell reads it: an element `{name}` is that argument of the call."""

    command: list[Annotated[str, StringConstraints(max_length=4096)]] = Field(min_length=1, max_length=64)
    stdin_argument: str = Field("", max_length=200, description="Argument that becomes standard input.")
    json_output: bool = Field(False, description="True: standard output is JSON and the output; else `{stdout}`.")
    timeout_seconds: Timeout = None


class SqlDeclaration(Command):
    """A query of a governed data source, performed as the caller: arguments are only ever values of it."""

    source: str = Field(min_length=1, max_length=63)
    query: str = Field(min_length=1, max_length=32768, description="One SELECT; `:name` is the argument of that name.")
    limit: int = Field(0, ge=0, le=100_000, description="Most rows; 0: 100.")
    timeout_seconds: Timeout = None


class McpSource(Resource):
    """Which tool of which MCP server it is, and what was approved."""

    server: str
    tool: str
    digest: str
    approver: str


class Tool(Resource):
    """Something that an agent can call."""

    tool: str
    kind: str = Field(description="`builtin`, `http`, `python`, `shell`, `sql` or `mcp`.")
    description: str
    input_schema: JsonValue
    output_schema: JsonValue
    idempotent: bool
    regions: list[str]
    digest: str
    version: int = Field(description="From 1; builtin tools have 0.")
    side_effect: SideEffect = Field(description="What a call may do to the world; policy and approvals use it.")
    untrusted_output: bool = Field(description="True when what it answers comes from outside and taints.")
    egress: bool = Field(description="True when a call sends its arguments out of the platform.")
    quarantine: str | None = Field(description="Why it can't be called until it is approved anew.")
    http: HttpDeclaration | None
    python: PythonDeclaration | None
    shell: ShellDeclaration | None
    sql: SqlDeclaration | None
    mcp: McpSource | None
    create_time: datetime | None
    update_time: datetime | None


class ToolPage(Page):
    """A page of tools, by name."""

    tools: list[Tool]


class ToolPolicy(Resource):
    """A tool, and what policy says of a call."""

    tool: Tool
    allowed: bool = Field(description="True when the caller may call it, perhaps with an approval only.")
    approval_required: bool = Field(description="True when policy permits the call with an approval and not without.")
    policies: list[str] = Field(description="Policies that forbid the call as it is.")
    policy_digest: str


class PutTool(Command):
    """A tool to declare: exactly one of `http`, `python`, `shell` and `sql`."""

    description: str = Field(min_length=1, max_length=2000)
    input_schema: dict[str, JsonValue] = Field(description="JSON Schema of the arguments; an object schema.")
    output_schema: dict[str, JsonValue] | None = Field(None, description="JSON Schema of the output; absent: any.")
    http: HttpDeclaration | None = None
    python: PythonDeclaration | None = None
    shell: ShellDeclaration | None = None
    sql: SqlDeclaration | None = None
    idempotent: bool = Field(False, description="True when the target honours the idempotency key.")
    side_effect: SideEffect | None = Field(
        None,
        description="Absent: by method (GET reads, DELETE destroys, others write); the other kinds read.",
    )
    trusted_output: bool = Field(
        False,
        description="True when the platform itself vouches for what an HTTP or SQL tool answers: it does not taint.",
    )
    regions: list[Region] = Field([], max_length=32)


class ImportTools(Command):
    """Operations of an OpenAPI document to declare as tools."""

    document: dict[str, JsonValue] = Field(description="OpenAPI 3.0 or 3.1; nothing outside of it is fetched.")
    prefix: str = Field(min_length=1, max_length=32, description="Tools are called `prefix.operation_id`.")
    operations: list[Annotated[str, StringConstraints(max_length=200)]] = Field(
        [], max_length=200, description="Operation ids; empty: all."
    )
    base_url: str = Field("", max_length=2048, description="In place of the document's first server.")
    headers: dict[str, Header] = Field({}, max_length=32, description="Of every tool; secrets as `secret:NAME`.")
    timeout_seconds: Timeout = None
    trusted_output: bool = False
    regions: list[Region] = Field([], max_length=32)


class ImportedTools(Resource):
    """The tools that were declared, in the document's order."""

    tools: list[Tool]


class InvokeTool(Command):
    """A call of a tool."""

    arguments: dict[str, JsonValue] = Field({})
    regions: list[Region] | None = Field(None, max_length=32, description="Demanded regions; an empty list is refused.")
    arguments_tainted: bool = Field(
        False, description="True when they derive from what came from outside: policy may demand an approval."
    )
    version: int = Field(0, ge=0, le=2**31 - 1, description="Version of the tool; 0: the newest.")


class ToolError(Resource):
    """A failure of the tool itself."""

    code: str
    message: str
    retryable: bool
    retry_after_seconds: float | None
    limit: str | None = Field(description="The limit that was reached.")


class ToolFile(Resource):
    """A file that a program left and that was stored."""

    name: str
    file_id: str
    content_type: str
    size_bytes: int
    digest: str


class SandboxUsage(Resource):
    """What a program used."""

    cpu_ms: int
    peak_memory_bytes: int
    egress_requests: int


class SandboxSession(Resource):
    """The session that a call belonged to."""

    session: str
    created: bool
    expire_time: datetime | None
    free_bytes: int


class ToolResult(Resource):
    """What a tool answered; a tool that ran and failed is an answer with `error`."""

    output: JsonValue
    stdout: str
    stderr: str
    error: ToolError | None
    duration_ms: int
    exit_status: int
    sandbox: str | None
    files: list[ToolFile]
    usage: SandboxUsage | None
    session: SandboxSession | None
    output_tainted: bool = Field(description="True when the output comes from outside, or from tainted arguments.")
    version: int


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
        version=message.version,
        side_effect=side_effect_name(message.side_effect),
        untrusted_output=message.untrusted_output,
        egress=message.egress,
        quarantine=message.quarantine or None,
        http=_declaration(message.http) if message.HasField("http") else None,
        python=PythonDeclaration.model_construct(
            code=message.python.code,
            function=message.python.function,
            timeout_seconds=seconds_of(message.python),
        )
        if message.HasField("python")
        else None,
        shell=ShellDeclaration.model_construct(
            command=list(message.shell.command),
            stdin_argument=message.shell.stdin_argument,
            json_output=message.shell.json_output,
            timeout_seconds=seconds_of(message.shell),
        )
        if message.HasField("shell")
        else None,
        sql=SqlDeclaration.model_construct(
            source=message.sql.source,
            query=message.sql.query,
            limit=message.sql.limit,
            timeout_seconds=seconds_of(message.sql),
        )
        if message.HasField("sql")
        else None,
        mcp=McpSource(
            server=message.mcp.server, tool=message.mcp.tool, digest=message.mcp.digest, approver=message.mcp.approver
        )
        if message.HasField("mcp")
        else None,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )


def _declaration(message: pb.HttpTool) -> HttpDeclaration:
    return HttpDeclaration.model_construct(
        method=message.method,
        url=message.url,
        headers=dict(message.headers),
        idempotency_header=message.idempotency_header,
        timeout_seconds=seconds_of(message),
        query_arguments=list(message.query_arguments),
        header_arguments=dict(message.header_arguments),
        body_argument=message.body_argument,
    )


Timed = pb.HttpTool | pb.PythonTool | pb.ShellTool | pb.SqlTool | pb.McpConnection | pb.ImportOpenApiRequest


def seconds_of(message: Timed) -> float | None:
    """A message's timeout in seconds; None for none."""
    return message.timeout.ToTimedelta().total_seconds() if message.HasField("timeout") else None


def set_timeout(message: Timed, seconds: float | None) -> None:
    """Sets a message's timeout, if there is one."""
    if seconds is not None:
        message.timeout.FromMilliseconds(round(seconds * 1000))


def side_effect_name(number: int) -> SideEffect:
    """A side effect as the API has it."""
    match number:
        case pb.SIDE_EFFECT_READ:
            return "read"
        case pb.SIDE_EFFECT_WRITE:
            return "write"
        case _:
            return "destructive"


def side_effect_of(name: SideEffect | None) -> pb.SideEffect.ValueType:
    """A side effect for the service."""
    return pb.SideEffect.Value(f"SIDE_EFFECT_{name.upper()}") if name else pb.SIDE_EFFECT_UNSPECIFIED


def put_request(tool: str, body: PutTool, request_id: str) -> pb.PutToolRequest:
    """Converts a declaration."""
    message = pb.PutToolRequest(
        tool=tool,
        description=body.description,
        input_schema_json=json_text(body.input_schema),
        output_schema_json=json_text(body.output_schema) if body.output_schema is not None else "",
        idempotent=body.idempotent,
        regions=body.regions,
        request_id=request_id,
        side_effect=side_effect_of(body.side_effect),
        trusted_output=body.trusted_output,
    )
    if body.http:
        message.http.CopyFrom(_http_tool(body.http))
    if body.python:
        message.python.CopyFrom(pb.PythonTool(code=body.python.code, function=body.python.function))
        set_timeout(message.python, body.python.timeout_seconds)
    if shell := body.shell:
        message.shell.CopyFrom(
            pb.ShellTool(command=shell.command, stdin_argument=shell.stdin_argument, json_output=shell.json_output)
        )
        set_timeout(message.shell, shell.timeout_seconds)
    if sql := body.sql:
        message.sql.CopyFrom(pb.SqlTool(source=sql.source, query=sql.query, limit=sql.limit))
        set_timeout(message.sql, sql.timeout_seconds)
    return message


def import_request(body: ImportTools) -> pb.ImportOpenApiRequest:
    """Converts an import."""
    message = pb.ImportOpenApiRequest(
        document_json=json_text(body.document),
        prefix=body.prefix,
        operations=body.operations,
        base_url=body.base_url,
        headers=body.headers,
        regions=body.regions,
        trusted_output=body.trusted_output,
    )
    set_timeout(message, body.timeout_seconds)
    return message


def _http_tool(declaration: HttpDeclaration) -> pb.HttpTool:
    message = pb.HttpTool(
        method=declaration.method,
        url=declaration.url,
        headers=declaration.headers,
        idempotency_header=declaration.idempotency_header,
        query_arguments=declaration.query_arguments,
        header_arguments=declaration.header_arguments,
        body_argument=declaration.body_argument,
    )
    set_timeout(message, declaration.timeout_seconds)
    return message


def tool_result(message: pb.InvokeToolResponse) -> ToolResult:
    """Converts an answer."""
    error = message.error
    wait = error.retry_after.ToTimedelta().total_seconds() if error.HasField("retry_after") else None
    return ToolResult(
        output=json_of(message.output_json),
        stdout=message.stdout,
        stderr=message.stderr,
        error=ToolError(
            code=error.code,
            message=error.message,
            retryable=error.retryable,
            retry_after_seconds=wait,
            limit=error.limit or None,
        )
        if message.HasField("error")
        else None,
        duration_ms=message.duration_ms,
        exit_status=message.exit_status,
        sandbox=message.sandbox or None,
        files=[
            ToolFile(
                name=file.name,
                file_id=file.file_id,
                content_type=file.content_type,
                size_bytes=file.size_bytes,
                digest=file.digest,
            )
            for file in message.files
        ],
        usage=SandboxUsage(
            cpu_ms=message.usage.cpu_ms,
            peak_memory_bytes=message.usage.peak_memory_bytes,
            egress_requests=message.usage.egress_requests,
        )
        if message.HasField("usage")
        else None,
        session=SandboxSession(
            session=message.session.session,
            created=message.session.created,
            expire_time=time_of(message.session, "expire_time"),
            free_bytes=message.session.free_bytes,
        )
        if message.HasField("session")
        else None,
        output_tainted=message.output_tainted,
        version=message.version,
    )
