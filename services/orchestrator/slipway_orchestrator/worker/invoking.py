"""The tool step."""

import json

from pydantic import JsonValue
from slipway.tools.v1 import tools_pb2
from slipway_chassis.channel import invoke
from slipway_chassis.jcs import NotCanonical, canonical_json, digest

from slipway_orchestrator.core.definition import ToolCall
from slipway_orchestrator.core.events import StepCompleted
from slipway_orchestrator.core.retry import Failure
from slipway_orchestrator.peers import Peers
from slipway_orchestrator.worker.attempt import Attempt, AttemptFailed, record_of

MAX_OUTPUT = 4 << 20
"""Bytes of a tool's output."""


async def call_tool(peers: Peers, call: ToolCall, attempt: Attempt) -> StepCompleted:
    """Invoke the tool, under its approval if it was gated. Raises AttemptFailed or SlipwayError."""
    arguments = attempt.input["arguments"]
    request = tools_pb2.InvokeToolRequest(
        tool=call.name,
        arguments_json=json.dumps(arguments, ensure_ascii=False),
        effect=attempt.effect,
        regions=attempt.regions or (),
        regions_demanded=attempt.regions is not None,
        arguments_tainted=attempt.tainted,
    )
    decision = attempt.perform.decision
    if decision is not None:
        request.approval.CopyFrom(
            tools_pb2.ApprovalProof(
                approval_id=decision.approval_id,
                approver=decision.decider or "",
                arguments_digest=digest(arguments),
            )
        )
    step = attempt.perform.step
    response: tools_pb2.InvokeToolResponse = await invoke(
        peers.tools.InvokeTool, request, token=attempt.token, timeout=attempt.timeout
    )
    records = record_of(response.record)
    if response.HasField("error"):
        error = response.error
        retry_after = error.retry_after.ToTimedelta().total_seconds() if error.HasField("retry_after") else None
        raise AttemptFailed(
            Failure(error.code, "", error.message, error.retryable, retry_after, tool_error=True),
            records=records,
            stdout=response.stdout or None,
            stderr=response.stderr or None,
        )
    return StepCompleted(
        attempt.perform.at.key,
        step.type,
        _output(response.output_json),
        attempt=attempt.perform.attempt,
        duration_ms=response.duration_ms,
        records=records,
        stdout=response.stdout or None,
        stderr=response.stderr or None,
        exit_status=response.exit_status if response.sandbox else None,
        sandbox=response.sandbox or None,
        files=[_file(file) for file in response.files] or None,
        tainted=response.output_tainted or attempt.tainted or None,
    )


def _file(file: tools_pb2.ToolFile) -> JsonValue:
    return {
        "name": file.name,
        "file_id": file.file_id,
        "content_type": file.content_type,
        "size_bytes": file.size_bytes,
    }


def _output(text: str) -> JsonValue:
    if len(text) > MAX_OUTPUT:
        raise AttemptFailed(Failure("OUTPUT_TOO_LARGE", "", f"more than {MAX_OUTPUT} bytes", False, tool_error=True))
    try:
        value: JsonValue = json.loads(text or "null")
        canonical_json(value)
    except (ValueError, RecursionError, NotCanonical) as error:
        raise AttemptFailed(
            Failure(
                "INVALID_RESULT", "", f"the output is no JSON that can be kept exactly: {error}", False, tool_error=True
            )
        ) from error
    return value
