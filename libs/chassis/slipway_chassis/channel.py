"""Calls to other services: connections, and one way to call that hands on token, deadline and trace."""

import time
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, cast

import grpc
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from slipway_chassis import telemetry
from slipway_chassis.deadline import remaining
from slipway_chassis.errors import DeadlineExceeded
from slipway_chassis.grpc_errors import from_rpc_error
from slipway_chassis.rpc_metrics import CLIENT
from slipway_chassis.tls import ServiceTls
from slipway_chassis.tls_channel import TlsChannel

Req = TypeVar("Req")
Res = TypeVar("Res")

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_METADATA_BYTES = 64 * 1024

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # gRPC would wait up to two minutes before it tries a restarted server again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def connect(target: str, tls: ServiceTls | None = None) -> grpc.aio.Channel:
    """A channel to ``target`` (``host:port``, ``dns:///name:port``, ``unix:/path``). Connects at the first call.

    With ``tls`` the server must show a certificate that names the target's host, whichever of its addresses is called.
    """
    if tls is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    return cast(grpc.aio.Channel, TlsChannel(target, tls, _OPTIONS))


def _name(method: Any) -> str:
    # Neither generated stubs nor grpc.aio tell the method's name in public.
    raw = getattr(method, "_method", b"")
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def _start_span(name: str) -> Span:
    return telemetry.start_span(name, kind=SpanKind.CLIENT, attributes={"rpc.system": "grpc", "rpc.method": name[1:]})


def _metadata(span: Span, token: str) -> list[tuple[str, str]]:
    metadata = list(telemetry.inject(span).items())
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    return metadata


def _end(span: Span, name: str, code: str, started: float) -> None:
    CLIENT.observe(name, code, time.perf_counter() - started)
    if code != "OK" and span.is_recording():
        span.set_status(Status(StatusCode.ERROR, code))
    span.end()


def _time_left(timeout: float) -> float:
    left = remaining()
    if left is None:
        return timeout
    if left <= 0:
        raise DeadlineExceeded("the deadline of the call has passed")
    return min(timeout, left)


async def invoke(
    method: Any,
    request: Any,
    *,
    token: str,
    timeout: float,
    wait_for_ready: bool | None = None,
) -> Any:
    """Call a unary method (or one that takes a stream: ``request`` is then an async iterator) of a stub.

    ``timeout`` in seconds is cut to what is left of the incoming call's deadline. An empty ``token`` sends none (public
    methods only). Raises the SlipwayError that the other side raised (RemoteError), or DeadlineExceeded.
    """
    seconds = _time_left(timeout)
    name, started, code = _name(method), time.perf_counter(), "CANCELLED"
    span = _start_span(name)
    try:
        metadata = _metadata(span, token)
        response = await method(request, metadata=metadata, timeout=seconds, wait_for_ready=wait_for_ready)
        code = "OK"
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        raise from_rpc_error(error) from error
    finally:
        _end(span, name, code, started)
    return response


async def stream(method: Any, request: Any, *, token: str, timeout: float) -> AsyncGenerator[Any]:
    """Call a method that answers with a stream; like ``invoke`` otherwise. Leaving the loop early cancels the call:
    wrap it in ``contextlib.aclosing`` where that may happen."""
    seconds = _time_left(timeout)
    name, started, code = _name(method), time.perf_counter(), "CANCELLED"
    span = _start_span(name)
    call = method(request, metadata=_metadata(span, token), timeout=seconds)
    try:
        async for response in call:
            yield response
        code = "OK"
    except grpc.aio.AioRpcError as error:
        code = error.code().name
        raise from_rpc_error(error) from error
    finally:
        if code == "CANCELLED":
            call.cancel()
        _end(span, name, code, started)
