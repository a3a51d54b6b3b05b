"""Errors over HTTP: RFC 9457 problems, with OpenAI's `error` object beside on the routes that OpenAI has."""

import json
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from slipway_chassis.errors import ErrorKind, RemoteError, SlipwayError
from slipway_chassis.telemetry import current_trace_id
from starlette.responses import Response

MEDIA_TYPE: Final = "application/problem+json"
OPENAI_PATHS: Final = ("/v1/chat/", "/v1/embeddings", "/v1/models")

_STATUS: Final = {
    ErrorKind.INVALID_ARGUMENT: 422,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.ALREADY_EXISTS: 409,
    ErrorKind.ABORTED: 409,
    ErrorKind.FAILED_PRECONDITION: 409,
    ErrorKind.PERMISSION_DENIED: 403,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.RESOURCE_EXHAUSTED: 429,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.DEADLINE_EXCEEDED: 504,
    ErrorKind.UNIMPLEMENTED: 501,
    ErrorKind.INTERNAL: 500,
}
_STATUS_OF_REASON: Final = {
    "BUDGET_EXHAUSTED": 402,
    "JSON_MALFORMED": 400,
    "HTTP_MALFORMED": 400,
    "REQUEST_TIMEOUT": 408,
    "METHOD_NOT_ALLOWED": 405,
    "MEDIA_TYPE_UNSUPPORTED": 415,
    "HOST_NOT_ALLOWED": 421,
    "RUN_PREFER_INVALID": 400,
}
# Statuses that the OpenAI SDK tries again by itself, without an idempotency key.
_SDK_RETRIES: Final = frozenset({408, 409, 429, *range(500, 600)})
# What the contracts' fields are called over HTTP.
_HTTP_FIELDS: Final = {"request_id": "Idempotency-Key", "data": "file"}
# Where the router's fields stand in an OpenAI request.
_OPENAI_FIELDS: Final = {
    "regions": "slipway.regions",
    "regions_demanded": "slipway.regions",
    "task": "slipway.task",
    "max_cost": "slipway.max_cost_usd",
    "session_id": "slipway.session_id",
    "quality": "slipway.quality",
    "max_latency": "slipway.max_latency_ms",
    "data_classes": "slipway.data_classes",
    "capabilities": "slipway.capabilities",
    "labels": "metadata",
    "inputs": "input",
}
_OPENAI_TYPE: Final = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Violation(BaseModel):
    """One wrong field."""

    field: str = Field(description="Path of the field, e.g. `spec.steps[2].tool`.")
    message: str = Field(description="What is wrong with it.")


class OpenAIError(BaseModel):
    """The error object of OpenAI's API."""

    message: str
    type: str
    code: str | None
    param: str | None


class Problem(BaseModel):
    """A problem (RFC 9457). `code` is stable and meant for programs; `detail` is one sentence for people."""

    model_config = ConfigDict(json_schema_extra={"title": "Problem"})

    type: str = Field(description="URI of the kind of problem.")
    title: str = Field(description="The HTTP status in words.")
    status: int
    detail: str
    code: str = Field(description="Stable reason code, e.g. `APPROVAL_ALREADY_DECIDED`.")
    field: str | None = Field(None, description="First wrong field of the request.")
    violations: list[Violation] | None = Field(None, description="All wrong fields.")
    metadata: dict[str, str] | None = Field(None, description="Facts for programs.")
    trace_id: str = Field(description="Name this to whoever operates the service.")
    error: OpenAIError | None = Field(None, description="The same as OpenAI's SDK reads it (OpenAI routes only).")


def is_openai(path: str) -> bool:
    """True for the routes that follow OpenAI's wire format."""
    return path.startswith(OPENAI_PATHS)


def status_of(error: SlipwayError, *, openai: bool) -> int:
    """The HTTP status of an error."""
    if error.reason in _STATUS_OF_REASON:
        return _STATUS_OF_REASON[error.reason]
    if error.reason.endswith("_TOO_LARGE"):
        return 413
    if error.kind is ErrorKind.UNAVAILABLE and error.reason.startswith("PROVIDER_"):
        return 502
    if error.kind is ErrorKind.INVALID_ARGUMENT and openai and not _is_unprocessable(error):
        # OpenAI answers 400 to a wrong parameter; regions and reused idempotency keys are 422 everywhere.
        return 400
    return _STATUS[error.kind]


def _is_unprocessable(error: SlipwayError) -> bool:
    fields = [violation.field for violation in error.violations]
    return (
        "REGION" in error.reason
        or error.reason in ("DATA_CLASSES_INVALID", "IDEMPOTENCY_KEY_REUSED")
        or any(field == "regions" or field.endswith(".regions") or ".regions[" in field for field in fields)
    )


def openai_error(error: SlipwayError, status: int) -> OpenAIError:
    """OpenAI's `error` object, as it stands in a problem or in a stream that failed."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    return OpenAIError(
        message=_public_message(error),
        type=_OPENAI_TYPE.get(status, fallback),
        code=error.reason.lower(),
        param=_field(error.field, openai=True) if error.field else None,
    )


def problem_of(error: SlipwayError, path: str) -> Problem:
    """The problem that tells of an error."""
    openai = is_openai(path)
    status = status_of(error, openai=openai)
    remote_trace = error.trace_id if isinstance(error, RemoteError) else ""
    return Problem(
        type="https://slipway.dev/problems/" + error.reason.lower().replace("_", "-"),
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_public_message(error),
        code=error.reason,
        field=_field(error.field, openai=openai) if error.field else None,
        violations=_violations(error, openai=openai),
        metadata=dict(error.metadata) or None,
        trace_id=remote_trace or current_trace_id(),
        error=openai_error(error, status) if openai else None,
    )


def problem_response(error: SlipwayError, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response that tells of an error, with what a client may do about it in its headers."""
    problem = problem_of(error, path)
    sent = dict(headers or {}) | {"cache-control": "no-store"}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        hint = "" if error.reason == "TOKEN_MISSING" else ', error="invalid_token"'
        sent["www-authenticate"] = f'Bearer realm="slipway"{hint}'
    if error.retry_after is not None:
        sent["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if problem.status in _SDK_RETRIES:
        sent["x-should-retry"] = "true" if _is_retryable(problem.status, error) else "false"
    if problem.status in (408, 413):
        # The rest of the body is not read: nothing sensible can follow on this connection.
        sent["connection"] = "close"
    content = problem.model_dump(exclude_none=True)
    if problem.error is not None:
        # OpenAI's object has all its members, null or not.
        content["error"] = problem.error.model_dump()
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(body.encode(), problem.status, headers=sent, media_type=MEDIA_TYPE)


def _is_retryable(status: int, error: SlipwayError) -> bool:
    """Only where nothing has happened yet and waiting helps; a 504 may have been bought and paid for already."""
    return status in (429, 503) or (status == 502 and error.retry_after is not None)


def _public_message(error: SlipwayError) -> str:
    if error.kind is ErrorKind.INTERNAL:
        return f"internal error (trace {current_trace_id()})"
    return _in_http_words(error, error.message)


def _in_http_words(error: SlipwayError, message: str) -> str:
    """Services know the idempotency key as `request_id`; the client sent a header."""
    if error.reason == "IDEMPOTENCY_KEY_REUSED":
        return message.replace("request_id", "the Idempotency-Key")
    return message


def _violations(error: SlipwayError, *, openai: bool) -> list[Violation] | None:
    return [
        Violation(field=_field(item.field, openai=openai), message=_in_http_words(error, item.message))
        for item in error.violations
    ] or None


def _field(field: str, *, openai: bool) -> str:
    """A field of a service's message under the name that it has over HTTP."""
    # An MCP server's connection is the whole body of its route.
    field = field.removeprefix("connection.")
    if openai:
        field = field.removeprefix("chat.")
    if field.startswith("/"):
        return _arguments_path(field)
    name = re.match(r"\w*", field)
    head = name[0] if name else ""
    public = (_OPENAI_FIELDS if openai else _HTTP_FIELDS).get(head, head)
    return public.removesuffix("_json").removesuffix("_yaml") + field[len(head) :]


def _arguments_path(pointer: str) -> str:
    """A JSON pointer into a tool's arguments, as the tools service gives it, in the form of all other fields."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/") if step]
    return "arguments" + "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps)
