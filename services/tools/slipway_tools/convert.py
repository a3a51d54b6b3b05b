"""Between the contract's messages and the domain's values: the only crossing."""

from datetime import timedelta

from google.protobuf.duration_pb2 import Duration
from slipway.effects.v1 import effects_pb2
from slipway.tools.v1 import tools_pb2

from slipway_tools import schema
from slipway_tools.invocation import Answer, Approval, Invocation
from slipway_tools.tool import DEFAULT_IDEMPOTENCY_HEADER, DEFAULT_TIMEOUT, Declaration, HttpCall, Tool, declare_http


def declaration(request: tools_pb2.PutToolRequest) -> Declaration:
    """The declaration that a request makes; raises InvalidTool or InvalidJson."""
    http = request.http
    call = HttpCall(
        method=http.method,
        url=http.url,
        headers=dict(http.headers),
        idempotency_header=http.idempotency_header or DEFAULT_IDEMPOTENCY_HEADER,
        timeout=http.timeout.ToNanoseconds() / 1e9 if http.HasField("timeout") else DEFAULT_TIMEOUT,
    )
    return declare_http(
        name=request.tool,
        description=request.description,
        input_schema_json=request.input_schema_json,
        output_schema_json=request.output_schema_json,
        idempotent=request.idempotent,
        regions=list(request.regions),
        http=call if request.HasField("http") else None,
    )


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
                timeout=_duration(http.timeout),
            )
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
    )
    if failure := result.failure:
        message.error.CopyFrom(
            tools_pb2.ToolError(code=failure.code, message=failure.message, retryable=failure.retryable)
        )
        if failure.retry_after is not None:
            message.error.retry_after.CopyFrom(_duration(failure.retry_after))
    return message


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
