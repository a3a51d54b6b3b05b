"""Requests that are refused before anything else is looked at."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi.exceptions import RequestValidationError
from slipway_chassis.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unimplemented,
)


class HttpMalformed(InvalidArgument):
    """The request breaks a rule of HTTP or of this server's bounds on it."""

    reason = "HTTP_MALFORMED"


class HostNotAllowed(InvalidArgument):
    """The Host header names a host that this server is not (RFC 9110, 7.4: 421 Misdirected Request)."""

    reason = "HOST_NOT_ALLOWED"


class JsonMalformed(InvalidArgument):
    """The body is not acceptable JSON."""

    reason = "JSON_MALFORMED"


class MediaTypeUnsupported(InvalidArgument):
    """The body is of a media type that this route does not take."""

    reason = "MEDIA_TYPE_UNSUPPORTED"


class BodyTooLarge(ResourceExhausted):
    """The body is larger than the route allows."""

    reason = "BODY_TOO_LARGE"


class RequestTimeout(DeadlineExceeded):
    """The client stopped sending in the middle of the body."""

    reason = "REQUEST_TIMEOUT"


class RouteNotFound(NotFound):
    """No route has this path."""

    reason = "ROUTE_NOT_FOUND"


class MethodNotAllowed(Unimplemented):
    """The path has no such method."""

    reason = "METHOD_NOT_ALLOWED"


def invalid_request(error: RequestValidationError) -> InvalidArgument:
    """What FastAPI's validation found, field by field; a value that was sent is never repeated."""
    violations = [FieldViolation(_path(item["loc"], error.body), _message(item)) for item in error.errors()]
    first = violations[0]
    sentence = f"{first.field}: {first.message}" if first.field else first.message
    return InvalidArgument(sentence, violations=violations)


def _message(item: Mapping[str, Any]) -> str:
    """What is wrong, in the words of somebody who sends JSON."""
    if item["loc"] == ("body",):
        return "send a JSON object" if item["type"] != "missing" else "the body is missing: send a JSON object"
    if item["type"] == "extra_forbidden":
        return "there is no such field"
    return str(item["msg"])


def _path(location: Sequence[str | int], body: Any) -> str:
    """`("body", "steps", 2, "tool")` as `steps[2].tool`; where the value stood (body, query, …) is not part of it.

    Nor are the names that pydantic gives to the members of a union: they stand where the body holds no object.
    """
    path = ""
    value: Any = body if location[0] == "body" else {}
    for step in location[1:]:
        if isinstance(step, str) and not isinstance(value, Mapping):
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
        if location[0] == "body":
            value = _member(cast(Any, value), step)
    return path


def _member(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (LookupError, TypeError):
        return None
