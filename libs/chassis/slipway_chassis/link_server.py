"""The server's side of links (slipway.link.v1): each call is admitted, counted and answered as if it came by itself."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import grpc
from google.rpc.status_pb2 import Status
from slipway.link.v1 import link_pb2

from slipway_chassis.channel import MAX_MESSAGE_BYTES
from slipway_chassis.errors import ResourceExhausted, Unimplemented
from slipway_chassis.grpc_errors import DETAILS_KEY, to_status
from slipway_chassis.link import MOST_BATCH_BYTES

METHOD: Final = "/slipway.link.v1.LinkService/Exchange"
MOST_CALLS: Final = 4096
"""Calls under way over one link."""
_MOST_RESPONSE_BYTES = MAX_MESSAGE_BYTES - 1024

Behaviour = Callable[[Any, Any], Awaitable[Any]]


class LinkServicer:
    """Serves links for the unary methods of a server."""

    def __init__(self, wrap: Callable[[str, Behaviour], Behaviour]) -> None:
        """`wrap` puts around a handler what happens around every call (ServerInterceptor)."""
        self._wrap = wrap
        self._methods: dict[str, tuple[Any, Behaviour]] = {}
        self._open: set[_ServedLink] = set()

    def serving(self, server: grpc.aio.Server) -> grpc.aio.Server:
        """The server as servicers are to be added to it, so that their unary methods are served over links, too."""
        return cast(grpc.aio.Server, _Serving(server, self))

    def add(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve the unary methods among `handlers`, as generated code registers them."""
        for name, handler in handlers.items():
            if not handler.request_streaming and not handler.response_streaming:
                method = f"/{service}/{name}"
                self._methods[method] = handler, self._wrap(method, handler.unary_unary)

    def find(self, method: str) -> tuple[Any, Behaviour]:
        """Codec and behaviour of a method. Raises Unimplemented."""
        try:
            return self._methods[method]
        except KeyError:
            raise Unimplemented("the service does not know this method") from None

    def close(self) -> None:
        """Take no new links' calls: callers are told, and end their links when the last call is answered."""
        for link in self._open:
            link.close()

    async def Exchange(self, request_iterator: Any, context: Any) -> None:
        """One link."""
        link = _ServedLink(self, context)
        self._open.add(link)
        try:
            await link.run()
        finally:
            self._open.discard(link)


class _Serving:
    """A server, and the links that it serves."""

    def __init__(self, server: grpc.aio.Server, links: LinkServicer) -> None:
        self._server = server
        self._links = links

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """What generated code calls with a servicer's methods."""
        self._links.add(service_name, method_handlers)
        self._server.add_registered_method_handlers(service_name, method_handlers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class _ServedLink:
    """One link and the calls under way over it."""

    def __init__(self, servicer: LinkServicer, context: Any) -> None:
        self._servicer = servicer
        self._context = context
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._answers: list[link_pb2.Answer] = []
        self._closing = False
        self._told = False
        self._writer: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve calls until the caller closes the link. A link that breaks cancels its calls."""
        loop = asyncio.get_running_loop()
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                for number in message.cancelled:
                    if number in self._calls:
                        self._calls[number].cancel()
                for call in message.calls:
                    task = self._calls[call.number] = loop.create_task(self._serve(call))
                    # A call that is cancelled before its first line would be forgotten by nobody else.
                    task.add_done_callback(lambda _, number=call.number: self._calls.pop(number, None))
            await asyncio.gather(*self._calls.values(), return_exceptions=True)
            if self._writer is not None:
                await self._writer
        finally:
            for task in self._calls.values():
                task.cancel()

    def close(self) -> None:
        """Tell the caller to send no more."""
        self._closing = True
        self._wake()

    async def _serve(self, call: link_pb2.Call) -> None:
        answer = link_pb2.Answer(number=call.number)
        alarm = asyncio.get_running_loop().call_later(call.timeout_us / 1_000_000, _cancel, asyncio.current_task())
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
        self._wake()

    async def _response(self, call: link_pb2.Call) -> bytes:
        if len(self._calls) > MOST_CALLS:
            raise ResourceExhausted("too many calls are under way over one link")
        handler, behaviour = self._servicer.find(call.method)
        response = await behaviour(handler.request_deserializer(call.request), _Context(call))
        data = handler.response_serializer(response)
        if len(data) > _MOST_RESPONSE_BYTES:
            raise ResourceExhausted("a message exceeds the size that a service accepts")
        return data

    def _wake(self) -> None:
        if self._writer is None:
            # Begins after whatever runs now, so that answers of the same moment go together.
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._answers or (self._closing and not self._told):
                answers, size = 0, 0
                for answer in self._answers:
                    size += len(answer.response)
                    if answers and size > MOST_BATCH_BYTES:
                        break
                    answers += 1
                message = link_pb2.ExchangeResponse(answers=self._answers[:answers], closing=self._closing)
                del self._answers[:answers]
                self._told = self._closing
                await self._context.write(message)
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            # The link is broken; `run` ends and cancels what is under way.
            self._answers.clear()
        finally:
            self._writer = None


class _Ended(Exception):
    """A call that ended with a status."""

    def __init__(self, status: bytes) -> None:
        super().__init__()
        self.status = status


class _Context:
    """What the wrapper around a handler asks of gRPC's context, from the call's own fields."""

    def __init__(self, call: link_pb2.Call) -> None:
        self._ends = time.monotonic() + call.timeout_us / 1_000_000
        self._metadata = (
            ("authorization", f"Bearer {call.token}"),
            ("traceparent", call.traceparent),
            ("tracestate", call.tracestate),
        )

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata that the caller sent."""
        return tuple(entry for entry in self._metadata if entry[1])

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


def _cancel(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
