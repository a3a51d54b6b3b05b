"""What happens around every RPC that a service serves: trace, metrics, deadline, caller, errors.

One interceptor does all five, for each more would cost a task switch and a wrapper per call.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from opentelemetry.trace import SpanKind, Status, StatusCode

from slipway_chassis import telemetry
from slipway_chassis.caller import Caller, bind_caller
from slipway_chassis.deadline import bind_deadline
from slipway_chassis.errors import InvalidArgument, SlipwayError
from slipway_chassis.grpc_errors import DETAILS_KEY, code_of, to_status
from slipway_chassis.logs import get_logger
from slipway_chassis.postgres import as_domain_error
from slipway_chassis.rpc_metrics import SERVER
from slipway_chassis.tokens import InvalidToken

_log = get_logger(__name__)
_HEALTH = "/grpc.health.v1.Health/"
_BEARER = "bearer "


class Verifier(Protocol):
    """What turns a caller token into a caller."""

    def verify(self, token: str) -> Caller:
        """The caller; Unauthenticated if the token is not good."""
        ...


class DeadlineRequired(InvalidArgument):
    """The call has no deadline: without one it could hold its resources for ever."""

    reason = "DEADLINE_REQUIRED"


@dataclass
class _Outcome:
    code: str = "OK"
    error: SlipwayError | None = None
    raised: BaseException | None = None
    started: float = field(default_factory=time.perf_counter)


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a deadline or a caller, and turns whatever a handler raises into a status."""

    def __init__(self, verifier: Verifier, public_methods: frozenset[str] = frozenset()) -> None:
        """``public_methods`` are full names (``/package.Service/Method``) that need no caller token."""
        self._verifier = verifier
        self._public = frozenset("/" + name.lstrip("/") for name in public_methods)
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
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

    def _wrap(self, method: str, handler: Any) -> grpc.RpcMethodHandler:
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
        make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        return make(self._unary(method, behaviour), **codec)

    def _unary(self, method: str, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[..., Any]:
        async def handle(request: Any, context: Any) -> Any:
            outcome = _Outcome()
            response = None
            with self._scope(method, context, outcome):
                self._admit(method, context)
                response = await behaviour(request, context)
            if outcome.error is not None or outcome.raised is not None:
                await _abort(context, outcome)
            return response

        return handle

    def _streaming(self, method: str, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[..., Any]:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            outcome = _Outcome()
            with self._scope(method, context, outcome):
                self._admit(method, context)
                async with aclosing(behaviour(request, context)) as responses:  # type: ignore[type-var]
                    async for response in responses:
                        yield response
            if outcome.error is not None or outcome.raised is not None:
                await _abort(context, outcome)

        return handle

    def _admit(self, method: str, context: Any) -> None:
        left = context.time_remaining()
        if left is None:
            raise DeadlineRequired("the call has no deadline")
        bind_deadline(left)
        if method not in self._public:
            token = _bearer(context)
            bind_caller(self._verifier.verify(token), token)
