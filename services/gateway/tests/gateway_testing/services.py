"""The services behind the gateway: a real gRPC server that speaks their contracts and answers as a test says.

It verifies the caller's token and the deadline of every call as the real services do, and remembers what it was asked.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from slipway.agents.v1 import agents_pb2
from slipway.audit.v1 import audit_pb2
from slipway.memory.v1 import memory_pb2, sources_pb2
from slipway.router.v1 import router_pb2
from slipway.runs.v1 import runs_pb2, schedules_pb2
from slipway.tools.v1 import tools_pb2
from slipway_chassis.caller import Caller
from slipway_chassis.errors import SlipwayError
from slipway_chassis.grpc_errors import DETAILS_KEY, code_of, to_status
from slipway_chassis.tokens import CallerTokenVerifier

_FILES = (agents_pb2, audit_pb2, memory_pb2, router_pb2, runs_pb2, schedules_pb2, sources_pb2, tools_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@dataclass
class Call:
    """What a service was asked, by whom, with how much time."""

    method: str
    request: Any
    caller: Caller
    seconds_left: float
    metadata: dict[str, str]
    cancelled: threading.Event


Answer = Callable[[Call], Any]


class Services(grpc.GenericRpcHandler):
    """Answers by method name, e.g. `services.on("GetRun", lambda call: GetRunResponse(...))`."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._verifier: CallerTokenVerifier | None = None
        self.calls: list[Call] = []
        self._server = grpc.server(ThreadPoolExecutor(32))
        self._server.add_generic_rpc_handlers((self,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def trust(self, jwks_file: Path) -> None:
        self._verifier = CallerTokenVerifier(jwks_file)

    def on(self, method: str, answer: Answer) -> None:
        """For streaming methods the answer is an iterator of messages."""
        full = [name for name in METHODS if name.endswith(f"/{method}")]
        assert len(full) == 1, f"{method}: {full}"
        self._answers[full[0]] = answer

    def reset(self) -> None:
        self._answers.clear()
        self.calls.clear()

    def last(self, method: str) -> Call:
        return next(call for call in reversed(self.calls) if call.method.endswith(f"/{method}"))

    def asked(self, method: str) -> int:
        return sum(call.method.endswith(f"/{method}") for call in self.calls)

    def stop(self) -> None:
        self._server.stop(None)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = METHODS.get(handler_call_details.method)
        if method is None:
            return None
        codec: dict[str, Any] = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }
        name = handler_call_details.method
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: self._stream(name, request, context), **codec
            )
        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(
                lambda requests, context: self._unary(name, requests, context), **codec
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._unary(name, request, context), **codec
        )

    def _unary(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return self._answer(name, request, context)
        except SlipwayError as error:
            return _abort(context, error)

    def _stream(self, name: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from self._answer(name, request, context)
        except SlipwayError as error:
            _abort(context, error)

    def _answer(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        assert self._verifier is not None
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        caller = self._verifier.verify(metadata["authorization"].removeprefix("Bearer "))
        left = context.time_remaining()
        assert left is not None
        assert left < 1e6, "the call has no deadline"
        call = Call(name, request, caller, left, metadata, threading.Event())
        context.add_callback(call.cancelled.set)
        self.calls.append(call)
        answer = self._answers.get(name)
        assert answer is not None, f"the test gave no answer for {name}"
        return answer(call)


def _abort(context: grpc.ServicerContext, error: SlipwayError) -> Any:
    status = to_status(error, "0" * 31 + "7")
    context.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
    context.abort(code_of(error.kind), status.message)
