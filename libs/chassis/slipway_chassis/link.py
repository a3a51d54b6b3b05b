"""Unary calls over links (slipway.link.v1): calls that wait at the same time share one message of a lasting connection.

``connect_linked`` makes what goes where a channel goes: stubs made with it call unary methods over links, with the same
errors and the same time-outs, and streams as ever. A few links are open at once, so that calls spread over the replicas
of a server, and each is replaced after a while, so that new replicas are found. Where no link can be had, calls go by
themselves.
"""

import asyncio
import contextvars
import ipaddress
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import grpc
from google.rpc.status_pb2 import Status
from slipway.link.v1 import link_pb2, link_pb2_grpc

from slipway_chassis.channel import connect
from slipway_chassis.frames import PREFACE, FrameError, Frames, frame, keep_alive
from slipway_chassis.grpc_errors import DETAILS_KEY
from slipway_chassis.logs import get_logger
from slipway_chassis.tls import ServiceTls, host_of

LINKS: Final = 4
_MOST_REQUEST_BYTES = 4 * 1024 * 1024  # what is larger goes by itself: it would hold up everybody else's calls
_MOST_BATCH_BYTES = 1024 * 1024  # a message takes no further call beyond this size
_AGE = 60.0  # seconds after which a link is replaced
_OPEN_TIMEOUT = 2.0  # seconds until calls go by themselves
_WITHOUT = 10.0  # seconds for which no link is asked for after there was none
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_log = get_logger(__name__)
Metadata = Sequence[tuple[str, str | bytes]]


def connect_linked(target: str, tls: ServiceTls | None = None) -> grpc.aio.Channel:
    """As `channel.connect`, for a service that is called so often that links pay."""
    return cast(grpc.aio.Channel, LinkedChannel(connect(target, tls), target, tls))


class LinkedChannel:
    """A channel whose unary calls go over links. Close it as the channel that it was made of."""

    def __init__(self, channel: grpc.aio.Channel, target: str, tls: ServiceTls | None = None) -> None:
        self._channel = channel
        self._tls = tls
        self._host = host_of(target)
        self._stub = link_pb2_grpc.LinkServiceStub(channel)
        # Its own loopback is where another machine's process is not.
        self._same_machine = _is_loopback(self._host)
        self._links: list[_Link | None] = [None] * LINKS
        self._turn = 0
        self._without_until = float("-inf")

    def unary_unary(self, method: str, **options: Any) -> "_Method":
        """A method of a stub."""
        return _Method(self, method, self._channel.unary_unary(method, **options), options)

    def __getattr__(self, name: str) -> Any:
        # All else is the channel's own.
        return getattr(self._channel, name)

    async def close(self, grace: float | None = None) -> None:
        """Close all links, then the channel."""
        for link in self._links:
            if link is not None:
                link.abort()
        await self._channel.close(grace)

    def link(self, metadata: Metadata) -> "_Link | None":
        """The link for the next call; None while there is none to be had. Calls of one moment get the same."""
        link = self._links[self._turn]
        if link is None or link.retired:
            loop = asyncio.get_running_loop()
            if loop.time() < self._without_until:
                return None
            link = self._links[self._turn] = _Link(loop, self._next_turn)
            link.opening = loop.create_task(self._open(link, metadata), context=contextvars.Context())
        return link

    def _next_turn(self) -> None:
        self._turn = (self._turn + 1) % len(self._links)

    async def _open(self, link: "_Link", metadata: Metadata) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT):
                request = link_pb2.GetLinkAddressRequest()
                told = await self._stub.GetLinkAddress(request, metadata=tuple(metadata), timeout=_OPEN_TIMEOUT)
                host, _, port = told.address.rpartition(":")
                host = host.strip("[]")
                if _is_loopback(host) and not self._same_machine:
                    raise ConnectionRefusedError("the server takes links on its own machine only")
                if self._tls is None:
                    await loop.create_connection(lambda: link, host, int(port))
                else:
                    # The address is one of several; the certificate names what the target does.
                    context = self._tls.current().client
                    await loop.create_connection(lambda: link, host, int(port), ssl=context, server_hostname=self._host)
        except (grpc.aio.AioRpcError, OSError, ValueError) as error:
            self._without_until = loop.time() + _WITHOUT
            reason = error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
            _log.info("link.none", reason=reason, retry_in=_WITHOUT)
            link.give_up()


class _Method:
    """A unary method, called as grpc.aio's own is."""

    def __init__(self, channel: LinkedChannel, name: str, plain: Any, options: dict[str, Any]) -> None:
        self._channel = channel
        # As grpc.aio's, from where `slipway_chassis.channel` takes the name.
        self._method = name.encode()
        self._name = name
        self._plain = plain
        self._serialize: Callable[[Any], bytes] = options["request_serializer"]
        self._deserialize: Callable[[bytes], Any] = options["response_deserializer"]

    async def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        wait_for_ready: bool | None = None,
    ) -> Any:
        """The response. Raises grpc.aio.AioRpcError."""
        data = self._serialize(request)
        by_itself = timeout is None or wait_for_ready or len(data) > _MOST_REQUEST_BYTES
        link = None if by_itself else self._channel.link(metadata)
        if link is None or timeout is None:
            return await self._plain(request, timeout=timeout, metadata=metadata, wait_for_ready=wait_for_ready)
        headers = dict(metadata)
        call = link_pb2.Call(
            method=self._name,
            request=data,
            token=str(headers.get("authorization", "")).removeprefix("Bearer "),
            traceparent=str(headers.get("traceparent", "")),
            tracestate=str(headers.get("tracestate", "")),
            timeout_us=max(1, round(timeout * 1_000_000)),
        )
        try:
            answer = await link.call(call, timeout)
        except _NoLink:
            return await self._plain(request, timeout=timeout, metadata=metadata)
        if answer.HasField("status"):
            raise _error_of(answer.status)
        return self._deserialize(answer.response)


class _NoLink(Exception):
    """No connection was made; the call was not sent."""


class _Link(asyncio.Protocol):
    """One connection and the calls under way over it."""

    opening: asyncio.Task[None]

    def __init__(self, loop: asyncio.AbstractEventLoop, on_flush: Callable[[], None]) -> None:
        self._loop = loop
        self._on_flush = on_flush
        self._transport: Any = None
        self._frames = Frames()
        self._last = 0
        self._waiting: dict[int, asyncio.Future[link_pb2.Answer]] = {}
        self._calls: list[link_pb2.Call] = []
        self._cancelled: list[int] = []
        self._flushing = self._paused = self._ended = False
        self._closing = False
        # Replaced at different times.
        self._ends = loop.time() + _AGE * random.uniform(0.8, 1.2)  # noqa: S311

    @property
    def retired(self) -> bool:
        """True when new calls need a new link."""
        if not self._closing and self._loop.time() > self._ends:
            self._retire()
        return self._closing

    async def call(self, call: link_pb2.Call, timeout: float) -> link_pb2.Answer:
        """Send a call and wait for its answer. Raises grpc.aio.AioRpcError, _NoLink."""
        self._last += 1
        number = call.number = self._last
        answer: asyncio.Future[link_pb2.Answer] = self._loop.create_future()
        self._waiting[number] = answer
        self._calls.append(call)
        self._flush_soon()
        alarm = self._loop.call_later(timeout, _time_out, answer)
        try:
            return await answer
        except BaseException:
            if self._waiting.pop(number, None) is not None:
                # Cancelled or too late: whatever the server does for it is of no use any more.
                self._cancelled.append(number)
                self._flush_soon()
            raise
        finally:
            alarm.cancel()
            if self._closing:
                self._retire()

    def give_up(self) -> None:
        """No connection could be made."""
        self._end(_NoLink())

    def abort(self) -> None:
        """End the link at once; calls under way fail."""
        self.opening.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._end(_error(grpc.StatusCode.UNAVAILABLE, "the link was closed"))

    def _retire(self) -> None:
        """Take no more calls; after the last answer the connection ends."""
        self._closing = True
        if not self._waiting and self._transport is not None:
            self._transport.close()

    def _flush_soon(self) -> None:
        if not self._flushing and self._transport is not None and not self._paused:
            # After whatever runs now, so that calls of the same moment go together.
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while (self._calls or self._cancelled) and not self._paused and not self._ended:
            calls, size = 0, 0
            for call in self._calls:
                size += len(call.request)
                if calls and size > _MOST_BATCH_BYTES:
                    break
                calls += 1
            message = link_pb2.CallerMessage(calls=self._calls[:calls], cancelled=self._cancelled)
            del self._calls[:calls]
            self._cancelled = []
            self._transport.write(frame(message))
            self._on_flush()

    def _end(self, failure: Exception) -> None:
        self._closing = self._ended = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(failure)
        self._waiting.clear()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        keep_alive(transport)
        self._transport.write(PREFACE)
        self._flush_soon()

    def data_received(self, data: bytes) -> None:
        try:
            for part in self._frames.take(data):
                message = link_pb2.ServerMessage.FromString(part)
                for answer in message.answers:
                    waiting = self._waiting.pop(answer.number, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answer)
                if message.closing:
                    self._retire()
        except FrameError:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(_error(grpc.StatusCode.UNAVAILABLE, "the link was closed"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._flush_soon()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _time_out(answer: "asyncio.Future[link_pb2.Answer]") -> None:
    if not answer.done():
        answer.set_exception(_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))


def _error(code: grpc.StatusCode, details: str, *trailing: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


def _error_of(raw: bytes) -> grpc.aio.AioRpcError:
    status = Status.FromString(raw)
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, (DETAILS_KEY, raw))
