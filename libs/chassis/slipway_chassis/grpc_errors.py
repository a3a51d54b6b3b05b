"""Domain errors on the wire: google.rpc.Status with ErrorInfo, BadRequest and RetryInfo, there and back."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from slipway_chassis.errors import ErrorKind, FieldViolation, Internal, RemoteError, SlipwayError
from slipway_chassis.tls_failures import tell_tls_failure

DOMAIN = "slipway.dev"
DETAILS_KEY = "grpc-status-details-bin"

# Statuses travel in HTTP/2 headers, which peers bound (8 KiB by default): the longest lists and texts are cut.
_MAX_MESSAGE = 1024
_MAX_VIOLATIONS = 20
_MAX_VIOLATION = 256

_CODE_OF: dict[ErrorKind, grpc.StatusCode] = {kind: grpc.StatusCode[kind.name] for kind in ErrorKind}
_KIND_OF: dict[grpc.StatusCode, ErrorKind] = {code: kind for kind, code in _CODE_OF.items()} | {
    # A peer cancels what it serves when it stops: for the caller it is gone, and may be back soon.
    grpc.StatusCode.CANCELLED: ErrorKind.UNAVAILABLE,
    grpc.StatusCode.OUT_OF_RANGE: ErrorKind.INVALID_ARGUMENT,
}
_WORDS: dict[ErrorKind, str] = {
    ErrorKind.UNAVAILABLE: "a service needed for this is unavailable",
    ErrorKind.DEADLINE_EXCEEDED: "the deadline passed before a needed service answered",
    ErrorKind.RESOURCE_EXHAUSTED: "a message exceeds the size that a service accepts",
    ErrorKind.UNIMPLEMENTED: "a needed service does not know this method",
}


def code_of(kind: ErrorKind) -> grpc.StatusCode:
    """The gRPC code of a kind of error."""
    return _CODE_OF[kind]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def to_status(err: BaseException, trace_id: str) -> Status:
    """The status that a caller may see. Whatever is no SlipwayError becomes INTERNAL and shows the trace id only."""
    if not isinstance(err, SlipwayError) or (isinstance(err, Internal) and not isinstance(err, RemoteError)):
        err = RemoteError(f"internal error (trace {trace_id})", kind=ErrorKind.INTERNAL, reason="INTERNAL")
    status = Status(code=_CODE_OF[err.kind].value[0], message=_cut(err.message, _MAX_MESSAGE))
    metadata = {**err.metadata, "trace_id": trace_id}
    status.details.add().Pack(ErrorInfo(reason=err.reason, domain=DOMAIN, metadata=metadata))
    if err.violations:
        bad_request = BadRequest()
        for violation in err.violations[:_MAX_VIOLATIONS]:
            bad_request.field_violations.add(
                field=_cut(violation.field, _MAX_VIOLATION), description=_cut(violation.message, _MAX_VIOLATION)
            )
        status.details.add().Pack(bad_request)
    if err.retry_after is not None:
        delay = Duration()
        delay.FromNanoseconds(round(err.retry_after * 1e9))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


def from_status(status: Status) -> RemoteError | None:
    """The error that ``to_status`` wrote, or None if the status is not one of ours."""
    info, bad_request, retry = ErrorInfo(), BadRequest(), RetryInfo()
    found = False
    retry_after: float | None = None
    for detail in status.details:
        name = detail.TypeName()
        if name == "google.rpc.ErrorInfo":
            found = detail.Unpack(info) and info.domain == DOMAIN
        elif name == "google.rpc.BadRequest":
            detail.Unpack(bad_request)
        elif name == "google.rpc.RetryInfo" and detail.Unpack(retry):
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    if not found:
        return None
    metadata = dict(info.metadata)
    trace_id = metadata.pop("trace_id", "")
    return RemoteError(
        status.message,
        kind=_kind_of_number(status.code),
        reason=info.reason,
        violations=[FieldViolation(v.field, v.description) for v in bad_request.field_violations],
        metadata=metadata,
        retry_after=retry_after,
        trace_id=trace_id,
    )


def _kind_of_number(number: int) -> ErrorKind:
    for code, kind in _KIND_OF.items():
        if code.value[0] == number:
            return kind
    return ErrorKind.INTERNAL


def from_rpc_error(error: grpc.aio.AioRpcError) -> RemoteError:
    """The domain error behind a failed call.

    A status without our details comes from gRPC itself (no connection, no time): its text names addresses, so it stays
    in ``__cause__`` for the log and is not part of the message.
    """
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            remote = from_status(Status.FromString(value))
            if remote is not None:
                remote.__cause__ = error
                return remote
    kind = _KIND_OF.get(error.code(), ErrorKind.INTERNAL)
    words = _WORDS.get(kind, "a needed service failed")
    if kind is ErrorKind.UNAVAILABLE and tell_tls_failure(error.details() or ""):
        words += " (TLS between services: the log says why)"
    remote = RemoteError(words, kind=kind, reason=kind.name)
    remote.__cause__ = error
    return remote
