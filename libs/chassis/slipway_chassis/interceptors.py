"""What happens around every RPC that a service serves: trace, metrics, deadline, caller, errors.

One interceptor does all five, for each more would cost a task switch and a wrapper per call.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, Protocol

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from slipway_chassis import telemetry
from slipway_chassis.caller import Caller, bind_caller
from slipway_chassis.deadline import bind_deadline
from slipway_chassis.errors import ErrorKind, InvalidArgument, PermissionDenied, SlipwayError
from slipway_chassis.grpc_errors import DETAILS_KEY, code_of, to_status
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import as_domain_error
from slipway_chassis.rpc_metrics import SERVER
from slipway_chassis.tokens import InvalidToken

_log = get_logger(__name__)
_HEALTH = "/grpc.health.v1.Health/"
# Codes that say that the server is at fault (OpenTelemetry, RPC conventions); the others are the caller's.
_SERVER_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class Verifier(Protocol):
    """What turns a caller token into a caller."""

    def verify(self, token: str) -> Caller:
        """The caller; Unauthenticated if the token is not good."""
        ...


class DeadlineRequired(InvalidArgument):
    """The call has no deadline: without one it could hold its resources for ever."""

    reason = "DEADLINE_REQUIRED"


class PeerNotAdmitted(PermissionDenied):
    """The certificate of the calling process names none of those that may call this service."""

    reason = "PEER_NOT_ADMITTED"


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a deadline or a caller, and turns whatever a handler raises into a status."""

    def __init__(
        self, verifier: Verifier, public_methods: frozenset[str] = frozenset(), peers: frozenset[str] = frozenset()
    ) -> None:
        """``public_methods`` are full names (``/package.Service/Method``) that need no caller token.

        ``peers`` are names of which the calling process' certificate must have one; none: any certificate will do.
        """
        self._verifier = verifier
        self._peers = frozenset(name.lower().encode() for name in peers)
        self._public = frozenset("/" + name.lstrip("/") for name in public_methods)
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the method called, wrapped; health checks pass as they are."""
        method = str(handler_call_details.method)
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            # Unknown methods have no handler; gRPC answers UNIMPLEMENTED. They are not kept: their number has no bound.
            if handler is None or method.startswith(_HEALTH):
                return handler
            wrapped = self._wrapped[method] = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(self._streaming(method, behaviour), **codec)
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(self.unary(method, behaviour), **codec)

    def unary(self, method: str, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Any]:
        """`behaviour` of a method with what happens around every call; runs in a task of its own for each call."""

        async def handle(request: Any, context: Any) -> Any:
            rpc = _Rpc(method, context)
            try:
                self._admit(method, context)
                response = await behaviour(request, context)
                rpc.code = "OK"
            except grpc.aio.AbortError:
                rpc.code = rpc.aborted_code()
                raise
            except Exception as error:  # noqa: BLE001 - the one place where every error becomes a status
                response = await rpc.fail(error)
            finally:
                rpc.end()
            return response

        return handle

    def _streaming(self, method: str, behaviour: Callable[[Any, Any], AsyncGenerator[Any, None]]) -> Callable[..., Any]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            rpc = _Rpc(method, context)
            try:
                self._admit(method, context)
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response
                rpc.code = "OK"
            except grpc.aio.AbortError:
                rpc.code = rpc.aborted_code()
                raise
            except Exception as error:  # noqa: BLE001 - as above
                await rpc.fail(error)
            finally:
                rpc.end()

        return handle

    def _admit(self, method: str, context: Any) -> None:
        left = context.time_remaining()
        if left is None:
            raise DeadlineRequired("the call has no deadline")
        bind_deadline(left)
        if self._peers and self._peers.isdisjoint(_names_of_peer(context)):
            raise PeerNotAdmitted("the certificate of the calling process names none that may call this service")
        if method not in self._public:
            token = _bearer(context)
            caller = self._verifier.verify(token)
            bind_caller(caller, token)
            span = trace.get_current_span()
            if span.is_recording():
                span.set_attribute("slipway.tenant", caller.tenant)


class _Rpc:
    """One call: its span, its outcome, its status."""

    def __init__(self, method: str, context: Any) -> None:
        self._method = method
        self._context = context
        self._started = time.perf_counter()
        # What a call ends with that neither returns nor raises an Exception: its task was cancelled.
        self.code = "CANCELLED"
        self._span = telemetry.start_span(
            method,
            kind=SpanKind.SERVER,
            parent=telemetry.extract(context.invocation_metadata() or ()),
            attributes={"rpc.system": "grpc", "rpc.method": method.lstrip("/")},
        )
        # gRPC runs every call in a task of its own, so there is nothing to restore at the end.
        telemetry.make_current(self._span)

    def aborted_code(self) -> str:
        """Code of a handler that set its status by itself."""
        code = self._context.code()
        return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"

    async def fail(self, error: Exception) -> None:
        """Answer with the status of ``error``; always raises."""
        domain_error = _domain_error(error)
        status = to_status(domain_error or error, telemetry.current_trace_id())
        kind = domain_error.kind if domain_error else ErrorKind.INTERNAL
        code = code_of(kind)
        self.code = code.name
        if kind is ErrorKind.INTERNAL:
            _log.error("rpc.failed", method=self._method, exc_info=error)
        elif kind is ErrorKind.UNAVAILABLE:
            _log.warning("rpc.unavailable", method=self._method, error=str(error), cause=repr(error.__cause__))
        await self._context.abort(code, status.message, ((DETAILS_KEY, status.SerializeToString()),))

    def end(self) -> None:
        """Count the call and end its span."""
        SERVER.observe(self._method, self.code, time.perf_counter() - self._started)
        if self._span.is_recording():
            self._span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[self.code].value[0])
            if self.code in _SERVER_FAULTS:
                self._span.set_status(Status(StatusCode.ERROR, self.code))
        self._span.end()


def _domain_error(error: BaseException) -> SlipwayError | None:
    """What a caller may know of the error. Of a task group's failures the first, if all of them may be known."""
    if isinstance(error, BaseExceptionGroup):
        parts = [_domain_error(part) for part in error.exceptions]
        return parts[0] if all(parts) else None
    return error if isinstance(error, SlipwayError) else as_domain_error(error)


def _names_of_peer(context: Any) -> Iterator[bytes]:
    """Subject alternative names in the caller's certificate, of all kinds, in lower case."""
    return (name.lower() for name in context.auth_context().get("x509_subject_alternative_name", ()))


def _bearer(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value[:7].lower() == "bearer ":
            return value[7:]
    raise InvalidToken("the call carries no caller token")
