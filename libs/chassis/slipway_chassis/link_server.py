"""The server's side of links (slipway.link.v1): each call is admitted, counted and answered as if it came by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status
from slipway.link.v1 import link_pb2, link_pb2_grpc

from slipway_chassis.channel import MAX_MESSAGE_BYTES
from slipway_chassis.errors import ResourceExhausted, Unavailable, Unimplemented
from slipway_chassis.frames import PREFACE, FrameError, Frames, frame, keep_alive
from slipway_chassis.grpc_errors import DETAILS_KEY, to_status
from slipway_chassis.tls import ServiceTls

MOST_CALLS: Final = 4096
"""Calls under way over one link."""
_MOST_BATCH_BYTES = 1024 * 1024  # a message takes no further answer beyond this size
_MOST_RESPONSE_BYTES = MAX_MESSAGE_BYTES - 1024
_PREFACE_TIMEOUT = 10.0  # seconds that a stranger may say nothing

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class LinkServer(link_pb2_grpc.LinkServiceServicer):
    """Takes links for the unary methods of a server, and tells where."""

    def __init__(self, wrap: Callable[[str, Behaviour], Behaviour], tls: ServiceTls | None = None) -> None:
        """`wrap` puts around a handler what happens around every call (ServerInterceptor)."""
        self._wrap = wrap
        self._tls = tls
        self._methods: dict[str, tuple[Any, Behaviour]] = {}
        self._listener: asyncio.Server | None = None
        self._address = ""
        self._open: set[_ServedLink] = set()
        self._all_closed = asyncio.Event()

    def serving(self, server: grpc.aio.Server) -> grpc.aio.Server:
        """The server as servicers are to be added to it, so that their unary methods are served over links, too."""
        link_pb2_grpc.add_LinkServiceServicer_to_server(self, server)
        return cast(grpc.aio.Server, _Serving(server, self))

    def add(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve the unary methods among `handlers`, as generated code registers them."""
        for name, handler in handlers.items():
            if not handler.request_streaming and not handler.response_streaming:
                method = f"/{service}/{name}"
                self._methods[method] = handler, self._wrap(method, handler.unary_unary)

    async def start(self, address: str) -> int:
        """Take links on `host:port`; the port. Raises OSError, also for an address that callers cannot be told."""
        host, _, port = address.rpartition(":")
        if host.strip("[]") in ("", "0.0.0.0", "::"):
            raise OSError(
                f"cannot take links on {address}: callers are told it, so it names an address of this machine"
            )
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(
                lambda: _ServedLink(self), host.strip("[]"), int(port), ssl=self._tls.listener if self._tls else None
            )
        except (OSError, ValueError) as error:
            raise OSError(f"cannot listen on {address}") from error
        bound = self._listener.sockets[0].getsockname()[1]
        self._address = f"{host}:{bound}"
        return bound

    async def stop(self, grace: float) -> None:
        """Take no more links and calls; calls under way get `grace` seconds."""
        if self._listener is None:
            return
        self._listener.close()
        for link in self._open:
            link.close()
        try:
            async with asyncio.timeout(grace):
                while self._open:
                    self._all_closed.clear()
                    await self._all_closed.wait()
        except TimeoutError:
            for link in list(self._open):
                link.abort()

    def find(self, method: str) -> tuple[Any, Behaviour]:
        """Codec and behaviour of a method. Raises Unimplemented."""
        try:
            return self._methods[method]
        except KeyError:
            raise Unimplemented("the service does not know this method") from None

    def opened(self, link: "_ServedLink") -> None:
        """A link begins."""
        self._open.add(link)

    def ended(self, link: "_ServedLink") -> None:
        """A link has ended."""
        self._open.discard(link)
        self._all_closed.set()

    async def GetLinkAddress(self, request: Any, context: Any) -> link_pb2.GetLinkAddressResponse:
        """Where links are taken. Raises Unavailable while none are."""
        if self._listener is None or not self._listener.is_serving():
            raise Unavailable("no links are taken")
        return link_pb2.GetLinkAddressResponse(address=self._address)


class _Serving:
    """A server, and the links that it serves."""

    def __init__(self, server: grpc.aio.Server, links: LinkServer) -> None:
        self._server = server
        self._links = links

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """What generated code calls with a servicer's methods."""
        self._links.add(service_name, method_handlers)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _ServedLink(asyncio.Protocol):
    """One link and the calls under way over it."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._frames = Frames()
        self._preface: bytes | None = b""
        self._patience: asyncio.TimerHandle | None = None
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._names: tuple[bytes, ...] = ()
        self._answers: list[link_pb2.Answer] = []
        self._flushing = self._paused = self._closing = False

    def close(self) -> None:
        """Tell the caller to send no more; it closes the link when it has all answers."""
        self._closing = True
        if self._preface is not None:
            self.abort()
        else:
            self._transport.write(frame(link_pb2.ServerMessage(closing=True)))

    def abort(self) -> None:
        """End the link at once."""
        self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._names = _names_in(transport.get_extra_info("peercert"))
        keep_alive(transport)
        self._patience = self._loop.call_later(_PREFACE_TIMEOUT, self.abort)
        self._server.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        for task in self._calls.values():
            task.cancel()
        self._server.ended(self)

    def data_received(self, data: bytes) -> None:
        try:
            for part in self._frames.take(self._without_preface(data)):
                message = link_pb2.CallerMessage.FromString(part)
                for call in message.calls:
                    task = self._calls[call.number] = self._loop.create_task(self._serve(call))
                    # A call that is cancelled before its first line would be forgotten by nobody else.
                    task.add_done_callback(lambda _, number=call.number: self._calls.pop(number, None))
                for number in message.cancelled:
                    if number in self._calls:
                        self._calls[number].cancel()
        except (FrameError, DecodeError):
            self.abort()

    def pause_writing(self) -> None:
        self._paused = True
        # Who does not read its answers sends no further calls.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        self._flush()

    def _without_preface(self, data: bytes) -> bytes:
        if self._preface is None:
            return data
        self._preface += data
        if not self._preface.startswith(PREFACE[: len(self._preface)]):
            raise FrameError
        if len(self._preface) < len(PREFACE):
            return b""
        rest, self._preface = self._preface[len(PREFACE) :], None
        if self._patience is not None:
            self._patience.cancel()
        return rest

    async def _serve(self, call: link_pb2.Call) -> None:
        answer = link_pb2.Answer(number=call.number)
        alarm = self._loop.call_later(call.timeout_us / 1_000_000, _cancel, asyncio.current_task())
        try:
            answer.response = await self._response(call)
        except _Ended as ended:
            answer.status = ended.status
        except Exception as error:  # noqa: BLE001 - refused here or by the codec: the wrapper's own are statuses by now
            answer.status = to_status(error, "").SerializeToString()
        finally:
            # Nobody waits for the answer of a call that is cancelled here, by the caller or by its deadline.
            alarm.cancel()
        self._answers.append(answer)
        if not self._flushing:
            # After whatever runs now, so that answers of the same moment go together.
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def _response(self, call: link_pb2.Call) -> bytes:
        if len(self._calls) > MOST_CALLS:
            raise ResourceExhausted("too many calls are under way over one link")
        handler, behaviour = self._server.find(call.method)
        response = await behaviour(handler.request_deserializer(call.request), _Context(call, self._names))
        data = handler.response_serializer(response)
        if len(data) > _MOST_RESPONSE_BYTES:
            raise ResourceExhausted("a message exceeds the size that a service accepts")
        return data

    def _flush(self) -> None:
        self._flushing = False
        while self._answers and not self._paused and not self._transport.is_closing():
            answers, size = 0, 0
            for answer in self._answers:
                size += len(answer.response)
                if answers and size > _MOST_BATCH_BYTES:
                    break
                answers += 1
            message = link_pb2.ServerMessage(answers=self._answers[:answers])
            del self._answers[:answers]
            self._transport.write(frame(message))


class _Ended(Exception):
    """A call that ended with a status."""

    def __init__(self, status: bytes) -> None:
        super().__init__()
        self.status = status


class _Context:
    """What the wrapper around a handler asks of gRPC's context, from the call's own fields."""

    def __init__(self, call: link_pb2.Call, names: tuple[bytes, ...]) -> None:
        self._names = names
        self._ends = time.monotonic() + call.timeout_us / 1_000_000
        self._metadata = [("authorization", f"Bearer {call.token}")]
        if call.traceparent:
            self._metadata += [("traceparent", call.traceparent), ("tracestate", call.tracestate)]

    def invocation_metadata(self) -> list[tuple[str, str]]:
        """Metadata that the caller sent."""
        return self._metadata

    def auth_context(self) -> dict[str, tuple[bytes, ...]]:
        """What the caller's certificate names, as gRPC says it."""
        return {"x509_subject_alternative_name": self._names}

    def time_remaining(self) -> float:
        """Seconds to the deadline."""
        return max(self._ends - time.monotonic(), 0.0)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        """End the call with a status."""
        for key, value in trailing_metadata:
            if key == DETAILS_KEY:
                raise _Ended(value)
        raise _Ended(Status(code=code.value[0], message=details).SerializeToString())


def _names_in(certificate: dict[str, Any] | None) -> tuple[bytes, ...]:
    return tuple(name.encode() for _, name in (certificate or {}).get("subjectAltName", ()))


def _cancel(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
