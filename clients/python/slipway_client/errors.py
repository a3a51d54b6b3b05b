"""What can go wrong when calling the API.

SlipwayError
├── ConnectionFailedError     the gateway could not be reached, or the connection broke
├── UnexpectedAnswerError     what answered is no Slipway gateway
└── ApiError                  the gateway answered with a problem (RFC 9457)
    ├── UnauthenticatedError  401
    ├── PermissionDeniedError 403
    ├── NotFoundError         404
    ├── ConflictError         409
    ├── InvalidRequestError   400, 413, 422
    ├── RateLimitedError      429
    └── UnavailableError      502, 503, 504
"""

from typing import Any


class SlipwayError(Exception):
    """Everything that this library raises."""


class ConnectionFailedError(SlipwayError):
    """The gateway could not be reached, or the connection broke."""


class UnexpectedAnswerError(SlipwayError):
    """What answered is no Slipway gateway, or one that this client is too old for."""


class ApiError(SlipwayError):
    """The gateway answered with a problem.

    `status` is the HTTP status, `code` the stable reason, `field` and `violations` what is wrong with the request,
    `trace_id` what to give to whoever runs the gateway, `retry_after` the seconds after which to ask again.
    """

    def __init__(self, status: int, problem: dict[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.code = str(problem.get("code") or "UNKNOWN")
        self.detail = str(problem.get("detail") or problem.get("title") or f"HTTP {status}")
        self.field: str | None = problem.get("field")
        self.violations: list[dict[str, str]] = problem.get("violations") or []
        self.trace_id: str | None = problem.get("trace_id")
        self.retry_after = retry_after
        self.problem = problem
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        lines = [f"{self.detail} [{self.code}]"]
        lines += [f"  {one.get('field', '')}: {one.get('message', '')}" for one in self.violations]
        return "\n".join(lines)


class UnauthenticatedError(ApiError):
    """401: the token is missing, wrong or too old."""


class PermissionDeniedError(ApiError):
    """403: the caller may not do this."""


class NotFoundError(ApiError):
    """404: there is no such thing, or not for this caller."""


class ConflictError(ApiError):
    """409: the thing is in a state in which this cannot be done."""


class InvalidRequestError(ApiError):
    """400, 413 or 422: the request is wrong; `field` and `violations` say where."""


class RateLimitedError(ApiError):
    """429: too many requests; `retry_after` seconds from now there may be room."""


class UnavailableError(ApiError):
    """502, 503 or 504: something behind the gateway (or the gateway) does not answer now."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


def api_error(status: int, problem: dict[str, Any], retry_after: float | None = None) -> ApiError:
    """The error class for a status."""
    return _BY_STATUS.get(status, ApiError)(status, problem, retry_after)
