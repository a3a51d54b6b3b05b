"""Calls of the services behind the gateway, for one verified caller."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from slipway.agents.v1.agents_pb2_grpc import AgentsServiceStub
from slipway.audit.v1.audit_pb2_grpc import AuditServiceStub
from slipway.memory.v1.memory_pb2_grpc import FilesServiceStub, KnowledgeServiceStub, SessionsServiceStub
from slipway.memory.v1.sources_pb2_grpc import SourcesServiceStub
from slipway.router.v1.router_pb2_grpc import RouterServiceStub
from slipway.runs.v1.runs_pb2_grpc import RunsServiceStub
from slipway.runs.v1.schedules_pb2_grpc import SchedulesServiceStub
from slipway.tools.v1.tools_pb2_grpc import ToolsServiceStub
from slipway_chassis import channel
from slipway_chassis.link import connect_linked
from slipway_chassis.tls import ServiceTls
from slipway_chassis.tls_failures import tell_tls_failure
from starlette.requests import ClientDisconnect, Request

from slipway_gateway.caller_tokens import CallerTokens
from slipway_gateway.principal import Principal

# Seconds that a call may take; each has its reason in what stands behind it.
DEFAULT_SECONDS: Final = 15.0
MODEL_SECONDS: Final = 300.0
SEARCH_SECONDS: Final = 30.0
TOOL_SECONDS: Final = 320.0
TRANSFER_SECONDS: Final = 600.0

CONNECTION_SCOPE_KEY: Final = "slipway.connection"

T = TypeVar("T")


class Connection(Protocol):
    """The client's connection, as `http/protocol.py` puts it into a request's scope."""

    is_lost: bool
    on_lost: Callable[[], None] | None
    """Called once, when the client goes away while its request is served."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Addresses of the services."""

    router: str
    orchestrator: str
    memory: str
    tools: str
    audit: str


class Peers:
    """Stubs of the services behind the gateway."""

    def __init__(self, targets: Targets, tls: ServiceTls | None = None) -> None:
        # Chat completions and embeddings come many at a time.
        router = connect_linked(targets.router, tls)
        orchestrator = channel.connect(targets.orchestrator, tls)
        memory, tools, audit = (
            channel.connect(targets.memory, tls),
            channel.connect(targets.tools, tls),
            channel.connect(targets.audit, tls),
        )
        self._channels: dict[str, grpc.aio.Channel] = {
            "router": router,
            "orchestrator": orchestrator,
            "memory": memory,
            "tools": tools,
            "audit": audit,
        }
        self.router = RouterServiceStub(router)
        self.agents = AgentsServiceStub(orchestrator)
        self.runs = RunsServiceStub(orchestrator)
        self.schedules = SchedulesServiceStub(orchestrator)
        self.knowledge = KnowledgeServiceStub(memory)
        self.files = FilesServiceStub(memory)
        self.sessions = SessionsServiceStub(memory)
        self.sources = SourcesServiceStub(memory)
        self.tools = ToolsServiceStub(tools)
        self.audit = AuditServiceStub(audit)

    def checks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """By name of the service: raises while it does not answer, or says that it is not ready."""
        return {name: partial(_is_serving, HealthStub(one)) for name, one in self._channels.items()}

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(one.close() for one in self._channels.values()))


class NotReady(Exception):
    """The service answers that it is not ready."""


class NoAnswer(Exception):
    """The service does not answer."""


class TlsFailure(Exception):
    """One side does not accept the other's certificate, or has none; the log says why."""


async def _is_serving(health: Any) -> None:
    try:
        answer = await health.Check(HealthCheckRequest())
    except grpc.aio.AioRpcError as error:
        raise (TlsFailure if tell_tls_failure(error.details() or "") else NoAnswer) from error
    if answer.status != HealthCheckResponse.SERVING:
        raise NotReady


class Calls:
    """What a route calls: every call carries the caller's internal token, a deadline and the trace.

    The methods raise the SlipwayError of the service that was called.
    """

    def __init__(self, peers: Peers, tokens: CallerTokens, principal: Principal) -> None:
        self.peers = peers
        self.principal = principal
        self._tokens = tokens

    async def invoke(self, method: Any, request: Any, *, timeout: float = DEFAULT_SECONDS) -> Any:
        """A unary call; `timeout` in seconds."""
        return await channel.invoke(method, request, token=self._tokens.for_principal(self.principal), timeout=timeout)

    async def upload(self, method: Any, parts: AsyncIterator[Any], *, timeout: float = TRANSFER_SECONDS) -> Any:
        """A call that sends a stream. What `parts` raises is raised here."""
        failure: list[BaseException] = []

        async def watched() -> AsyncGenerator[Any]:
            try:
                async for part in parts:
                    yield part
            except Exception as error:
                failure.append(error)
                raise

        try:
            return await self.invoke(method, watched(), timeout=timeout)
        except asyncio.CancelledError:
            # gRPC cancels a call whose request iterator fails, and keeps the reason to itself.
            if failure:
                raise failure[0] from None
            raise

    def stream(self, method: Any, request: Any, *, timeout: float) -> AsyncGenerator[Any]:
        """A call that answers with a stream; close it (`aclosing`) to cancel the call."""
        token = self._tokens.for_principal(self.principal)
        return channel.stream(method, request, token=token, timeout=timeout)


async def first_of(stream: AsyncGenerator[T]) -> T | None:
    """The first item of a stream, so that its error comes before any header is sent; None for an empty stream."""
    return await anext(stream, None)


async def unless_disconnected(request: Request, call: Coroutine[Any, Any, T]) -> T:
    """Runs a call, and cancels it when the client goes away: raises ClientDisconnect then.

    The request's body must have been read.
    """
    connection: Connection = request.scope[CONNECTION_SCOPE_KEY]
    task, gone = asyncio.current_task(), False
    assert task is not None  # noqa: S101 - a coroutine runs in a task

    def hang_up() -> None:
        nonlocal gone
        gone = True
        task.cancel()

    connection.on_lost = hang_up
    try:
        if connection.is_lost:
            call.close()
            raise ClientDisconnect
        return await call
    except asyncio.CancelledError:
        # Another cancellation beside that of the client stays one.
        if gone and task.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        connection.on_lost = None
