"""Between the contract's messages and the domain's values: the only crossing, but for MCP servers'."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from slipway.effects.v1 import effects_pb2
from slipway.tools.v1 import tools_pb2

from slipway_tools import schema
from slipway_tools.declare import declare
from slipway_tools.invocation import Answer, Approval, Invocation
from slipway_tools.result import SandboxFacts
from slipway_tools.tool import (
    DEFAULT_IDEMPOTENCY_HEADER,
    DEFAULT_TIMEOUT,
    Declaration,
    HttpCall,
    PythonFunction,
    ShellCommand,
    SideEffect,
    SqlQuery,
    Tool,
)

_SIDE_EFFECTS: dict[int, SideEffect] = {
    tools_pb2.SIDE_EFFECT_READ: "read",
    tools_pb2.SIDE_EFFECT_WRITE: "write",
    tools_pb2.SIDE_EFFECT_DESTRUCTIVE: "destructive",
}
_ON_THE_WIRE = {effect: tools_pb2.SideEffect.ValueType(number) for number, effect in _SIDE_EFFECTS.items()}


def declaration(request: tools_pb2.PutToolRequest) -> Declaration:
    """The declaration that a request makes; raises InvalidTool or InvalidJson."""
    python, shell, sql = request.python, request.shell, request.sql
    return declare(
        name=request.tool,
        description=request.description,
        input_schema_json=request.input_schema_json,
        output_schema_json=request.output_schema_json,
        idempotent=request.idempotent,
        regions=list(request.regions),
        side_effect=side_effect(request.side_effect),
        trusted_output=request.trusted_output,
        http=_http(request.http) if request.HasField("http") else None,
        python=PythonFunction(python.code, python.function or "main", seconds(python.timeout, python))
        if request.HasField("python")
        else None,
        shell=ShellCommand(tuple(shell.command), shell.stdin_argument, shell.json_output, seconds(shell.timeout, shell))
        if request.HasField("shell")
        else None,
        sql=SqlQuery(sql.source, sql.query, sql.limit, seconds(sql.timeout, sql)) if request.HasField("sql") else None,
    )


def _http(http: tools_pb2.HttpTool) -> HttpCall:
    return HttpCall(
        method=http.method,
        url=http.url,
        headers=dict(http.headers),
        idempotency_header=http.idempotency_header or DEFAULT_IDEMPOTENCY_HEADER,
        timeout=seconds(http.timeout, http),
        query_arguments=tuple(http.query_arguments),
        header_arguments=dict(http.header_arguments),
        body_argument=http.body_argument,
    )


def seconds(
    timeout: Duration,
    of: tools_pb2.HttpTool
    | tools_pb2.PythonTool
    | tools_pb2.ShellTool
    | tools_pb2.SqlTool
    | tools_pb2.McpConnection
    | tools_pb2.ImportOpenApiRequest,
) -> float:
    """A timeout in seconds; the default when the message has none."""
    return timeout.ToNanoseconds() / 1e9 if of.HasField("timeout") else DEFAULT_TIMEOUT


def side_effect(number: int) -> SideEffect | None:
    """A side effect from the wire; None when unset (or one that this release does not know)."""
    return _SIDE_EFFECTS.get(number)


def side_effect_on_the_wire(effect: SideEffect) -> tools_pb2.SideEffect.ValueType:
    """A side effect for the wire."""
    return _ON_THE_WIRE[effect]


def tool(source: Tool) -> tools_pb2.Tool:
    """A tool on the wire."""
    declared = source.declaration
    message = tools_pb2.Tool(
        tool=declared.name,
        kind=declared.kind,
        description=declared.description,
        input_schema_json=schema.text(declared.input_schema),
        output_schema_json=schema.text(declared.output_schema) if declared.output_schema is not None else "",
        idempotent=declared.idempotent,
        digest=declared.digest,
        regions=declared.regions,
        side_effect=side_effect_on_the_wire(source.side_effect),
        untrusted_output=source.untrusted_output,
        egress=source.egress,
        version=source.version,
        quarantine=source.quarantine,
    )
    message.create_time.FromDatetime(source.create_time)
    message.update_time.FromDatetime(source.update_time)
    if http := declared.http:
        message.http.CopyFrom(
            tools_pb2.HttpTool(
                method=http.method,
                url=http.url,
                headers=http.headers,
                idempotency_header=http.idempotency_header,
                timeout=duration(http.timeout),
                query_arguments=http.query_arguments,
                header_arguments=http.header_arguments,
                body_argument=http.body_argument,
            )
        )
    if python := declared.python:
        message.python.CopyFrom(
            tools_pb2.PythonTool(code=python.code, function=python.function, timeout=duration(python.timeout))
        )
    if shell := declared.shell:
        message.shell.CopyFrom(
            tools_pb2.ShellTool(
                command=shell.command,
                stdin_argument=shell.stdin_argument,
                json_output=shell.json_output,
                timeout=duration(shell.timeout),
            )
        )
    if sql := declared.sql:
        message.sql.CopyFrom(
            tools_pb2.SqlTool(source=sql.source, query=sql.query, limit=sql.limit, timeout=duration(sql.timeout))
        )
    if mcp := declared.mcp:
        message.mcp.CopyFrom(
            tools_pb2.McpToolSource(server=mcp.server, tool=mcp.tool, digest=mcp.digest, approver=mcp.approver)
        )
    return message


def invocation(request: tools_pb2.InvokeToolRequest) -> Invocation:
    """The call that a request asks for."""
    effect = request.effect if request.HasField("effect") and request.effect.key else None
    approval = request.approval
    return Invocation(
        tool=request.tool,
        arguments_json=request.arguments_json,
        effect=effect,
        demanded_regions=list(request.regions) if request.regions_demanded or request.regions else None,
        approval=Approval(approval.approval_id, approval.approver, approval.arguments_digest)
        if request.HasField("approval")
        else None,
        arguments_tainted=request.arguments_tainted,
        version=request.version,
    )


def answer(source: Answer) -> tools_pb2.InvokeToolResponse:
    """A call's answer on the wire."""
    result = source.result
    message = tools_pb2.InvokeToolResponse(
        output_json=result.output_json,
        stdout=result.stdout,
        stderr=result.stderr,
        duration_ms=source.duration_ms,
        exit_status=result.exit_status,
        sandbox=result.sandbox,
        record=effects_pb2.RecordRef(event_id=source.record.event_id, commitment=source.record.commitment),
        output_tainted=source.output_tainted,
        version=source.version,
        kind=source.kind,
    )
    if failure := result.failure:
        message.error.CopyFrom(
            tools_pb2.ToolError(
                code=failure.code, message=failure.message, retryable=failure.retryable, limit=failure.limit
            )
        )
        if failure.retry_after is not None:
            message.error.retry_after.CopyFrom(duration(failure.retry_after))
    if facts := result.facts:
        _sandbox_facts(message, facts)
    return message


def _sandbox_facts(message: tools_pb2.InvokeToolResponse, facts: SandboxFacts) -> None:
    for file in facts.files:
        message.files.add(
            name=file.name,
            file_id=file.file_id,
            content_type=file.content_type,
            size_bytes=file.size,
            digest=f"sha256:{file.sha256}",
        )
    usage = facts.usage
    message.usage.CopyFrom(
        tools_pb2.SandboxUsage(
            cpu_ms=usage.cpu_ms, peak_memory_bytes=usage.peak_memory, egress_requests=usage.egress_requests
        )
    )
    if session := facts.session:
        message.session.session = session.name
        message.session.created = session.created
        message.session.expire_time.FromJsonString(session.expire_time)
        message.session.free_bytes = session.free_bytes
        for name, size in session.files:
            message.session.files.add(name=name, size_bytes=size)


def duration(seconds: float) -> Duration:
    """Seconds for the wire."""
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
