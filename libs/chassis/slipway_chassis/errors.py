"""Domain errors: what went wrong, in terms that a caller may see. No transport is known here.

SlipwayError
├── InvalidArgument      the request is wrong whatever the state of the system
├── NotFound             no such thing for this caller (also: it belongs to another tenant)
├── AlreadyExists        the name is taken
├── Aborted              lost against a concurrent change; read again, then try again
├── FailedPrecondition   the state does not allow it; trying again does not help until it changes
├── PermissionDenied     the caller is known and may not
├── Unauthenticated      the caller is not known
├── ResourceExhausted    a limit, a quota or a budget is used up
├── Unavailable          something needed is down; trying again later may help
├── DeadlineExceeded     there was not enough time
├── Unimplemented        the operation does not exist here
├── Internal             a bug; its message never reaches a caller
└── RemoteError          any of them, raised by another service

Services subclass these beside the logic that raises them and give each a ``reason`` of its own.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class ErrorKind(enum.Enum):
    """Broad class of an error; each has one gRPC code and one HTTP status."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    ABORTED = "ABORTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class FieldViolation:
    """One wrong field of a request: its path (``spec.steps[2].tool``) and what is wrong with it."""

    field: str
    message: str


class SlipwayError(Exception):
    """Base of all errors that a caller may see.

    ``kind`` and ``reason`` belong to the class; ``reason`` is UPPER_SNAKE, public and stable. ``field`` is short for
    one violation with the error's own message; ``metadata`` are facts for programs; ``retry_after`` is in seconds.
    """

    kind: ErrorKind = ErrorKind.INTERNAL
    reason: str = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        own = (FieldViolation(field, message),) if field else ()
        self.violations: tuple[FieldViolation, ...] = (*own, *violations)
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after = retry_after

    @property
    def field(self) -> str | None:
        """Path of the first wrong field, if the error is about one."""
        return self.violations[0].field if self.violations else None


class InvalidArgument(SlipwayError):
    """The request is wrong whatever the state of the system."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class NotFound(SlipwayError):
    """No such thing for this caller."""

    kind = ErrorKind.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExists(SlipwayError):
    """The name is taken."""

    kind = ErrorKind.ALREADY_EXISTS
    reason = "ALREADY_EXISTS"


class Aborted(SlipwayError):
    """Lost against a concurrent change."""

    kind = ErrorKind.ABORTED
    reason = "ABORTED"


class FailedPrecondition(SlipwayError):
    """The state does not allow it."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class PermissionDenied(SlipwayError):
    """The caller is known and may not."""

    kind = ErrorKind.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class Unauthenticated(SlipwayError):
    """The caller is not known."""

    kind = ErrorKind.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class ResourceExhausted(SlipwayError):
    """A limit, a quota or a budget is used up."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "RESOURCE_EXHAUSTED"


class Unavailable(SlipwayError):
    """Something needed is down."""

    kind = ErrorKind.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlineExceeded(SlipwayError):
    """There was not enough time."""

    kind = ErrorKind.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


class Unimplemented(SlipwayError):
    """The operation does not exist here."""

    kind = ErrorKind.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class Internal(SlipwayError):
    """A bug or a broken invariant. Its message goes to the log, never to a caller."""

    kind = ErrorKind.INTERNAL
    reason = "INTERNAL"


class RemoteError(SlipwayError):
    """An error that another service raised, kept as it was: kind, reason, violations, metadata, ``trace_id``."""

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        reason: str,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        trace_id: str = "",
    ) -> None:
        super().__init__(message, violations=violations, metadata=metadata, retry_after=retry_after)
        self.kind = kind
        self.reason = reason
        self.trace_id = trace_id
