"""Traces, metrics and the trace context that every call and message carries (W3C ``traceparent``).

Without an OTLP endpoint no SDK is loaded: spans are no-ops that only carry a trace id, so that errors and log lines can
still name it.
"""

import os
import random
import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from slipway_chassis.logs import configure_logging

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

Attributes = Mapping[str, str | int | float | bool]

registry = CollectorRegistry()
"""All metrics of the process; ``/metrics`` shows it."""

ProcessCollector(registry=registry)
PlatformCollector(registry=registry)
GCCollector(registry=registry)

_propagator = TraceContextTextMapPropagator()
_PLAIN_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})").fullmatch
_NO_CONTEXT = otel_context.Context()
_provider: "TracerProvider | None" = None
# Trace ids must not be guessable from one another, nor equal in forked workers; urandom seeds once per process.
_random = random.Random(os.urandom(16))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(16)))


def setup(service: str, otlp_endpoint: str = "", log_level: str = "INFO") -> None:
    """Configure JSON logging, and traces to ``otlp_endpoint`` (``http://host:4317``) if there is one. Idempotent."""
    global _provider  # noqa: PLW0603
    configure_logging(service, log_level)
    if not otlp_endpoint or _provider is not None:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"slipway-{service}"}))
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=not otlp_endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _provider = provider


def shutdown() -> None:
    """Send the spans that are still held back; bounded by the exporter's time-out."""
    if _provider is not None:
        _provider.shutdown()


def tracer() -> Tracer:
    """The tracer of all Slipway code."""
    return trace.get_tracer("slipway")


def current_trace_id() -> str:
    """Trace id of the current span as 32 hex digits, or "" outside of any."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else ""


def inject(span: Span | None = None) -> dict[str, str]:
    """The W3C headers of ``span`` or the current one, for gRPC metadata, HTTP and bus headers."""
    headers: dict[str, str] = {}
    _propagator.inject(headers, context=trace.set_span_in_context(span) if span else None)
    return headers


def extract(headers: Mapping[str, str] | Iterable[tuple[str, str | bytes]]) -> "Context":
    """The trace context that ``headers`` carry; an empty one if they carry none or a damaged one."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    carrier = {k: v for k, v in pairs if k in ("traceparent", "tracestate") and isinstance(v, str)}
    if not carrier:
        return _NO_CONTEXT
    plain = _PLAIN_TRACEPARENT(carrier["traceparent"]) if "traceparent" in carrier and len(carrier) == 1 else None
    if plain is not None:
        # What comes with every call between our services; the propagator takes longer over it.
        trace_id, span_id, flags = (int(part, 16) for part in plain.groups())
        span_context = SpanContext(trace_id, span_id, True, TraceFlags(flags))
        if span_context.is_valid:
            return trace.set_span_in_context(NonRecordingSpan(span_context), _NO_CONTEXT)
    return _propagator.extract(carrier, context=_NO_CONTEXT)


def start_span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: "Context | None" = None,
    attributes: Attributes | None = None,
) -> Span:
    """A span that is not yet the current one; child of ``parent`` or else of the current span, or a trace's root.

    Whoever starts it ends it. With telemetry off it only carries the ids.
    """
    if _provider is not None:
        return tracer().start_span(name, context=parent, kind=kind, attributes=attributes)
    above = trace.get_current_span(parent).get_span_context()
    trace_id = above.trace_id if above.is_valid else _random.getrandbits(128) or 1
    return NonRecordingSpan(SpanContext(trace_id, _random.getrandbits(64) or 1, False, above.trace_flags))


def make_current(span: Span) -> None:
    """Make ``span`` the current one for the rest of the task."""
    otel_context.attach(trace.set_span_in_context(span))


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: "Context | None" = None,
    attributes: Attributes | None = None,
) -> Generator[Span]:
    """A current span around the block (see ``start_span``). An exception marks it as failed and passes through.

    Only the exception's type is kept: what it says may be a person's words.
    """
    started = start_span(name, kind=kind, parent=parent, attributes=attributes)
    with trace.use_span(started, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield started
        except Exception as error:
            started.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
