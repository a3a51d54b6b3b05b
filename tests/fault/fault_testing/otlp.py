"""A trace collector: receives spans over OTLP/gRPC and keeps them."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan


@dataclass(frozen=True)
class Span:
    """A span as it was received. `parent_id` is "" for a root."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    # Everything that the span says, in one text, to be searched.
    text: str


class Collector(service.TraceServiceServicer):
    """Keeps all spans."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self.endpoint = ""

    def Export(self, request: messages.ExportTraceServiceRequest, context: object) -> Any:
        received = [
            _span(str(_attributes(resource.resource.attributes)["service.name"]), span)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += received
        return messages.ExportTraceServiceResponse()

    def spans(self, trace_id: str | None = None) -> list[Span]:
        """All spans so far, or those of one trace."""
        with self._lock:
            return [span for span in self._spans if trace_id in (None, span.trace_id)]


def _span(name: str, span: WireSpan) -> Span:
    return Span(
        service=name,
        name=span.name,
        kind=WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        text=str(span),
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: AnyValue = pair.value
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


@contextmanager
def collect() -> Generator[Collector]:
    """A collector on a free port of this machine."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    service.add_TraceServiceServicer_to_server(collector, server)  # pyright: ignore[reportUnknownMemberType]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(1).wait()
