"""Unary calls over links (slipway.link.v1): calls that wait at the same time share one message of a long stream.

``connect_linked`` makes what goes where a channel goes: stubs made with it call unary methods over links, with the same
errors and the same time-outs, and streams as ever. A few links are open at once, so that calls spread over the replicas
of a server, and each is replaced after a while, so that new replicas are found. A server that knows no links is called
without.
"""

import asyncio
import contextvars
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import grpc
from google.rpc.status_pb2 import Status
from slipway.link.v1 import link_pb2, link_pb2_grpc

from slipway_chassis.channel import connect
from slipway_chassis.grpc_errors import DETAILS_KEY

LINKS: Final = 4
MOST_BATCH_BYTES: Final = 1024 * 1024
"""A message takes no further call beyond this size."""
_MOST_REQUEST_BYTES = 4 * 1024 * 1024  # what is larger goes by itself: it would hold up everybody else's calls
_AGE = 300.0  # seconds after which a link is replaced
_WITHOUT = 60.0  # seconds for which a server without links is not asked again
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def connect_linked(target: str) -> grpc.aio.Channel:
    """As `channel.connect`, for a service that is called so often that links pay."""
    return cast(grpc.aio.Channel, LinkedChannel(connect(target)))


class LinkedChannel:
    """A channel whose unary calls go over links. Close it as the channel that it was made of."""

    def __init__(self, channel: grpc.aio.Channel, *, links: int = LINKS) -> None:
        self._channel = channel
        self._stub = link_pb2_grpc.LinkServiceStub(channel)
        self._links: list[_Link | None] = [None] * links
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
                link.cancel()
        await self._channel.close(grace)

    def link(self) -> "_Link | None":
        """The link for the next call; None while the server knows none. Calls of one moment get the same."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._without_until:
            return None
        link = self._links[self._turn]
        if link is None or link.retired:
            link = self._links[self._turn] = _Link(self._stub.Exchange(), loop, self._on_flush, self._on_unknown)
        return link

    def _on_flush(self) -> None:
        self._turn = (self._turn + 1) % len(self._links)

    def _on_unknown(self) -> None:
        self._without_until = asyncio.get_running_loop().time() + _WITHOUT


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
        metadata: Sequence[tuple[str, str | bytes]] = (),
        wait_for_ready: bool | None = None,
    ) -> Any:
        """The response. Raises grpc.aio.AioRpcError."""
        data = self._serialize(request)
        by_itself = timeout is None or wait_for_ready or len(data) > _MOST_REQUEST_BYTES
        link = None if by_itself else self._channel.link()
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
        except _UnknownService:
            return await self._plain(request, timeout=timeout, metadata=metadata)
        if answer.HasField("status"):
            raise _error_of(answer.status)
        return self._deserialize(answer.response)


class _UnknownService(Exception):
    """The server knows no links; the call was not begun."""


class _Link:
    """One stream."""

    def __init__(
        self, stream: Any, loop: asyncio.AbstractEventLoop, on_flush: Callable[[], None], on_unknown: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._loop = loop
        self._on_flush = on_flush
        self._on_unknown = on_unknown
        self._last = 0
        self._waiting: dict[int, asyncio.Future[link_pb2.Answer]] = {}
        self._calls: list[link_pb2.Call] = []
        self._cancelled: list[int] = []
        self._writer: asyncio.Task[None] | None = None
        self._said_all = False
        # Replaced at different times, and no call's context is kept for the link's life.
        self._ends = loop.time() + _AGE * random.uniform(0.8, 1.2)  # noqa: S311
        self._closing = False
        self._reader = loop.create_task(self._read(), context=contextvars.Context())

    @property
    def retired(self) -> bool:
        """True when new calls need a new link."""
        if not self._closing and self._loop.time() > self._ends:
            self._retire()
        return self._closing

    async def call(self, call: link_pb2.Call, timeout: float) -> link_pb2.Answer:
        """Send a call and wait for its answer. Raises grpc.aio.AioRpcError, _UnknownService."""
        self._last += 1
        number = call.number = self._last
        answer: asyncio.Future[link_pb2.Answer] = self._loop.create_future()
        self._waiting[number] = answer
        self._calls.append(call)
        self._wake()
        alarm = self._loop.call_later(timeout, _time_out, answer)
        try:
            return await answer
        except BaseException:
            if self._waiting.pop(number, None) is not None and not self._reader.done():
                # Cancelled or too late: whatever the server does for it is of no use any more.
                self._cancelled.append(number)
                self._wake()
            raise
        finally:
            alarm.cancel()
            if self._closing:
                self._retire()

    def cancel(self) -> None:
        """End the link at once; calls under way fail."""
        self._closing = True
        self._stream.cancel()

    def _retire(self) -> None:
        """Take no more calls; when the last one is answered, the stream ends."""
        self._closing = True
        if not self._waiting and not self._said_all:
            self._said_all = True
            self._wake()

    def _wake(self) -> None:
        if self._writer is None:
            # Begins after whatever runs now, so that calls of the same moment go together.
            self._writer = self._loop.create_task(self._write(), context=contextvars.Context())

    async def _write(self) -> None:
        try:
            while self._calls or self._cancelled:
                calls, size = 0, 0
                for call in self._calls:
                    size += len(call.request)
                    if calls and size > MOST_BATCH_BYTES:
                        break
                    calls += 1
                message = link_pb2.ExchangeRequest(calls=self._calls[:calls], cancelled=self._cancelled)
                del self._calls[:calls]
                self._cancelled = []
                self._on_flush()
                await self._stream.write(message)
            if self._said_all:
                await self._stream.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            # The stream is over; the reader knows why, and tells whoever waits.
            self._closing = True
        finally:
            self._writer = None

    async def _read(self) -> None:
        failure = _error(grpc.StatusCode.UNAVAILABLE, "the link was closed")
        try:
            while (message := await self._stream.read()) is not grpc.aio.EOF:
                for answer in message.answers:
                    waiting = self._waiting.pop(answer.number, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(answer)
                if message.closing:
                    self._retire()
            if (code := await self._stream.code()) is not grpc.StatusCode.OK:
                failure = _error(code, await self._stream.details())
        except grpc.aio.AioRpcError as error:
            failure = error
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._closing = True
            unknown = failure.code() is grpc.StatusCode.UNIMPLEMENTED
            if unknown:
                self._on_unknown()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(_UnknownService() if unknown else failure)
            self._waiting.clear()


def _time_out(answer: "asyncio.Future[link_pb2.Answer]") -> None:
    if not answer.done():
        answer.set_exception(_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))


def _error(code: grpc.StatusCode, details: str, *trailing: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


def _error_of(raw: bytes) -> grpc.aio.AioRpcError:
    status = Status.FromString(raw)
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _error(code, status.message, (DETAILS_KEY, raw))
