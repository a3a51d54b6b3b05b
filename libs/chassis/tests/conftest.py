"""Fixtures of the chassis' own tests: a database with its tables, and a small real service on gRPC."""

import asyncio
import base64
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import grpc
import pytest
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway.identity.v1 import identity_pb2, identity_pb2_grpc
from slipway.memory.v1 import memory_pb2, memory_pb2_grpc
from slipway_chassis.caller import Caller
from slipway_chassis.channel import connect
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.interceptors import ServerInterceptor
from slipway_chassis.link import connect_linked
from slipway_chassis.link_server import LinkServer
from slipway_chassis.postgres import migrate, open_pool
from slipway_chassis.tls import ServiceTls
from slipway_chassis.tokens import CallerTokenVerifier

ALICE = Caller(
    subject="alice",
    tenant="acme",
    kind="user",
    roles=frozenset({"developer", "operator"}),
    groups=frozenset(),
    act=None,
    run_id=None,
    token_id="jti-1",
    expires_at=datetime.now(UTC) + timedelta(minutes=5),
)


@pytest.fixture
def caller() -> Callable[..., Caller]:
    """`caller(subject="bob", …)`: alice of acme, changed as named."""
    return lambda **changes: dataclasses.replace(ALICE, **changes)


@pytest.fixture
def data_key() -> str:
    """A data key as settings have it."""
    return base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """A pool on a fresh database with all chassis tables."""
    async with await open_pool(database_url) as opened:
        await migrate(opened, "slipway_chassis", chassis=["outbox", "idempotency", "effects", "subject_keys", "inbox"])
        yield opened


@pytest.fixture
def keys(pool: asyncpg.Pool, data_key: str) -> SubjectKeys:
    """Subject keys over `pool`."""
    return SubjectKeys(pool, data_key)


Behaviour = Callable[[], Awaitable[str]]


class Audit(audit_pb2_grpc.AuditServiceServicer):
    """GetCheckpoint answers with what `behaviour` says; ExportRunEvidence streams, then does the same."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = self._nothing
        # Names in the certificates of the callers.
        self.peers: set[str] = set()
        self.cancelled = asyncio.Event()

    @staticmethod
    async def _nothing() -> str:
        return ""

    async def GetCheckpoint(self, request: Any, context: Any) -> audit_pb2.GetCheckpointResponse:
        self.peers.update(name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ()))
        try:
            return audit_pb2.GetCheckpointResponse(note=await self.behaviour())
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def ExportRunEvidence(self, request: Any, context: Any) -> AsyncIterator[audit_pb2.ExportRunEvidenceResponse]:
        try:
            for part in (b"one", b"two"):
                yield audit_pb2.ExportRunEvidenceResponse(data=part)
            yield audit_pb2.ExportRunEvidenceResponse(data=(await self.behaviour()).encode())
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Identity(identity_pb2_grpc.IdentityServiceServicer):
    """IssueServiceToken is public; `issue` answers."""

    def __init__(self) -> None:
        self.issue: Callable[[Any], Awaitable[identity_pb2.IssueServiceTokenResponse]] | None = None

    async def IssueServiceToken(self, request: Any, context: Any) -> identity_pb2.IssueServiceTokenResponse:
        if self.issue is not None:
            return await self.issue(request)
        return identity_pb2.IssueServiceTokenResponse(token="token of " + request.service)


class Files(memory_pb2_grpc.FilesServiceServicer):
    """UploadFile counts the bytes that were streamed to it."""

    async def UploadFile(self, request_iterator: Any, context: Any) -> memory_pb2.UploadFileResponse:
        size = 0
        async for part in request_iterator:
            size += part.ByteSize()
        return memory_pb2.UploadFileResponse(file=memory_pb2.File(size_bytes=size))


@dataclass
class Running:
    """The server's parts, and stubs on a channel to it; `linked_audit` calls over links."""

    server: grpc.aio.Server
    target: str
    servicer: Audit
    identity_servicer: Identity
    audit: audit_pb2_grpc.AuditServiceStub
    linked_audit: audit_pb2_grpc.AuditServiceStub
    links: LinkServer
    identity: identity_pb2_grpc.IdentityServiceStub
    files: memory_pb2_grpc.FilesServiceStub


@asynccontextmanager
async def _serving(
    verifier: CallerTokenVerifier,
    port: int,
    *,
    with_links: bool,
    tls: ServiceTls | None,
    peers: frozenset[str],
    caller_tls: ServiceTls | None,
) -> AsyncGenerator[Running]:
    """The server with the chassis' interceptor; IssueServiceToken is its only public method."""
    public = frozenset({"/slipway.identity.v1.IdentityService/IssueServiceToken"})
    interceptor = ServerInterceptor(verifier, public, peers)
    server = grpc.aio.server(interceptors=[interceptor])
    links = LinkServer(interceptor.unary, tls)
    serving = links.serving(server)
    audit, identity = Audit(), Identity()
    audit_pb2_grpc.add_AuditServiceServicer_to_server(audit, serving)
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(identity, serving)
    memory_pb2_grpc.add_FilesServiceServicer_to_server(Files(), serving)
    address = f"127.0.0.1:{port}"
    bound = server.add_secure_port(address, tls.server_credentials()) if tls else server.add_insecure_port(address)
    target = f"127.0.0.1:{bound}"
    await server.start()
    if with_links:
        await links.start("127.0.0.1:0")
    channel, linked = connect(target, caller_tls), connect_linked(target, caller_tls)
    try:
        yield Running(
            server,
            target,
            audit,
            identity,
            audit_pb2_grpc.AuditServiceStub(channel),
            audit_pb2_grpc.AuditServiceStub(linked),
            links,
            identity_pb2_grpc.IdentityServiceStub(channel),
            memory_pb2_grpc.FilesServiceStub(channel),
        )
    finally:
        await channel.close()
        await linked.close()
        await links.stop(0)
        await server.stop(None)


@pytest.fixture
def serving(signing: Any) -> Callable[..., Any]:
    """`async with serving(port)`: the small service on a port of one's own; `tls` and `caller_tls` are of its sides."""

    def serve(
        port: int = 0,
        *,
        with_links: bool = True,
        tls: ServiceTls | None = None,
        peers: frozenset[str] = frozenset(),
        caller_tls: ServiceTls | None = None,
    ) -> Any:
        verifier = CallerTokenVerifier(signing.jwks_file)
        return _serving(verifier, port, with_links=with_links, tls=tls, peers=peers, caller_tls=caller_tls)

    return serve


@pytest.fixture
async def service(serving: Callable[..., Any]) -> AsyncIterator[Running]:
    """The small service, serving."""
    async with serving() as running:
        yield running
