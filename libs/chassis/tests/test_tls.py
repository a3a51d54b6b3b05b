"""Mutual TLS between services, over gRPC's own calls and over links, on real servers."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway.memory.v1 import memory_pb2
from slipway_chassis import tls as tls_module
from slipway_chassis import tls_channel, tls_failures
from slipway_chassis.channel import connect, invoke, stream
from slipway_chassis.errors import ErrorKind, RemoteError, SlipwayError
from slipway_chassis.link import connect_linked
from slipway_chassis.tls import CertificateFiles, ServiceTls
from slipway_chassis.tokens import ServiceTokenSource
from slipway_testkit.certificates import CertificateAuthority, Issued
from slipway_testkit.waiting import eventually

REQUEST = audit_pb2.GetCheckpointRequest()
EXPORT = audit_pb2.ExportRunEvidenceRequest()
authority = CertificateAuthority()
stranger = CertificateAuthority("stranger")


def tls_of(issued: Issued) -> ServiceTls:
    return ServiceTls(CertificateFiles("SLIPWAY_SMALL_TLS_", issued.certificate, issued.key, issued.authority))


@pytest.fixture
def side(tmp_path: Path) -> Callable[..., ServiceTls]:
    """`side("name", "127.0.0.1", …)`: TLS of a process with a certificate of its own."""
    return lambda folder, *names, by=authority, **options: tls_of(by.issue(tmp_path / folder, *names, **options))


@pytest.fixture
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at with every connection."""
    monkeypatch.setattr(tls_module, "_LOOK_EVERY", 0.0)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes what a test opens."""
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The sentences about TLS in the log."""
    monkeypatch.setattr(tls_failures, "_told", {})
    sentences: list[str] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        if event["event"] == "tls.failed":
            sentences.append(event["reason"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield sentences
    structlog.reset_defaults()


async def test_all_kinds_of_calls_go_over_mutual_tls(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any
) -> None:
    async def iterate() -> AsyncIterator[memory_pb2.UploadFileRequest]:
        for _ in range(3):
            yield memory_pb2.UploadFileRequest(data=b"x" * 100)

    async with serving(tls=side("server", "127.0.0.1"), caller_tls=side("caller", "caller.example")) as service:
        token = signing.token("alice")
        await invoke(service.audit.GetCheckpoint, REQUEST, token=token, timeout=10)
        assert service.servicer.peers == {"caller.example"}
        async with aclosing(stream(service.audit.ExportRunEvidence, EXPORT, token=token, timeout=10)) as parts:
            assert [part.data async for part in parts] == [b"one", b"two", b""]
        uploaded = await invoke(service.files.UploadFile, iterate(), token=token, timeout=10)
        assert uploaded.file.size_bytes > 300


async def test_links_are_encrypted_and_show_the_same_certificates(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any
) -> None:
    async with serving(tls=side("server", "127.0.0.1"), caller_tls=side("caller", "caller.example")) as service:
        for _ in range(5):
            await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token("alice"), timeout=10)
        linked = next(iter(service.links._open))
        assert linked._transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert linked._names == (b"caller.example",)


async def test_links_have_the_name_of_the_target_and_not_of_the_address(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any
) -> None:
    async with serving(tls=side("server", "localhost")) as service:
        port = service.target.rpartition(":")[2]
        channel: Any = connect_linked(f"dns:///localhost:{port}", side("caller", "caller.example"))
        stub = audit_pb2_grpc.AuditServiceStub(channel)
        await invoke(stub.GetCheckpoint, REQUEST, token=signing.token("alice"), timeout=10)
        assert len(service.links._open) == 1
        await channel.close()


@pytest.mark.parametrize(
    ("server", "caller", "sentence"),
    [
        ({}, None, "takes callers with TLS only"),
        ({}, {"by": stranger, "trust": authority.pem + stranger.pem}, "does not accept the certificate"),
        ({}, {"trust": stranger.pem + authority.pem, "by": stranger}, "does not accept the certificate"),
        ({"by": stranger}, {}, "no authority in TLS_CA_FILE has signed its certificate"),
        ({"names": ["router.example"]}, {}, "does not name the host that the target names"),
        (None, {}, "it answers without TLS"),
    ],
)
async def test_sides_that_do_not_fit_have_no_call_and_are_told_why(
    serving: Callable[..., Any],
    side: Callable[..., ServiceTls],
    signing: Any,
    told: list[str],
    server: dict[str, Any] | None,
    caller: dict[str, Any] | None,
    sentence: str,
) -> None:
    def made(name: str, options: dict[str, Any] | None) -> ServiceTls | None:
        if options is None:
            return None
        return side(name, *options.get("names", ["127.0.0.1"]), **{k: v for k, v in options.items() if k != "names"})

    async with serving(tls=made("server", server), caller_tls=made("caller", caller)) as service:
        for stub in (service.audit, service.linked_audit):
            with pytest.raises(RemoteError) as failed:
                await invoke(stub.GetCheckpoint, REQUEST, token=signing.token("alice"), timeout=10)
            assert failed.value.kind is ErrorKind.UNAVAILABLE
            assert "TLS between services: the log says why" in failed.value.message
        assert service.servicer.peers == set()
    assert sentence in told[0]


async def test_a_link_demands_a_certificate(serving: Callable[..., Any], side: Callable[..., ServiceTls]) -> None:
    async with serving(tls=side("server", "127.0.0.1")) as service:
        _, _, port = service.links._address.rpartition(":")
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        plain.load_verify_locations(cadata=authority.pem.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port), ssl=plain)
        writer.write(b"slipway-link/1\n")
        assert await reader.read() == b""
        writer.close()
        assert not service.links._open


@pytest.mark.parametrize("name", ["gateway.example", "spiffe://cluster/gateway"])
async def test_only_callers_whose_certificate_names_one_that_may_are_admitted(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any, stack: AsyncExitStack, name: str
) -> None:
    """So what is stolen from one service opens no other one that it has no business with."""
    service = await stack.enter_async_context(
        serving(tls=side("server", "127.0.0.1"), peers=frozenset({name}), caller_tls=side("tools", "tools.example"))
    )
    token = signing.token("alice")
    for stub in (service.audit, service.linked_audit):
        with pytest.raises(RemoteError) as refused:
            await invoke(stub.GetCheckpoint, REQUEST, token=token, timeout=10)
        assert (refused.value.kind, refused.value.reason) == (ErrorKind.PERMISSION_DENIED, "PEER_NOT_ADMITTED")
    assert service.servicer.peers == set()
    gateway = side("gateway", "other.example", name)
    for channel in (connect(service.target, gateway), connect_linked(service.target, gateway)):
        await invoke(audit_pb2_grpc.AuditServiceStub(channel).GetCheckpoint, REQUEST, token=token, timeout=10)
        await channel.close()


async def test_a_stolen_link_is_refused_call_by_call(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any
) -> None:
    """An admitted process asks where links are taken, another one goes there."""
    gateway, tools = side("gateway", "gateway.example"), side("tools", "tools.example")
    async with serving(
        tls=side("server", "127.0.0.1"), peers=frozenset({"gateway.example"}), caller_tls=gateway
    ) as service:
        linked: Any = connect_linked(service.target, gateway)
        linked._tls = tools
        stub = audit_pb2_grpc.AuditServiceStub(linked)
        with pytest.raises(RemoteError) as refused:
            await invoke(stub.GetCheckpoint, REQUEST, token=signing.token("alice"), timeout=10)
        assert refused.value.reason == "PEER_NOT_ADMITTED"
        assert len(service.links._open) == 1
        await linked.close()


async def serial_at(port: int, caller: ServiceTls) -> int:
    """Serial number of the certificate that a new connection is shown."""
    context = caller.current().client
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


def serial_of(issued: Issued) -> int:
    return x509.load_pem_x509_certificate(issued.certificate.read_bytes()).serial_number


async def shows(port: int, caller: ServiceTls, issued: Issued) -> bool:
    """Whether new connections are shown that certificate."""
    return await serial_at(port, caller) == serial_of(issued)


@pytest.mark.usefixtures("look_often")
async def test_certificates_and_authority_change_while_calls_go_on_and_none_fails(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any, tmp_path: Path
) -> None:
    old, new = authority, CertificateAuthority("its successor")
    token = signing.token("alice")
    server, caller = side("server", "127.0.0.1"), side("caller", "caller.one")
    async with serving(tls=server, caller_tls=caller) as service:
        holds, ends = asyncio.Event(), asyncio.Event()
        grpc_port = int(service.target.rpartition(":")[2])
        link_port = int(service.links._address.rpartition(":")[2])
        made = 0

        async def call(stub: Any) -> None:
            nonlocal made
            while not ends.is_set():
                await invoke(stub.GetCheckpoint, REQUEST, token=token, timeout=20)
                made += 1

        async def long_call() -> list[bytes]:
            parts = stream(service.audit.ExportRunEvidence, EXPORT, token=token, timeout=60)
            async with aclosing(parts) as responses:
                return [part.data async for part in responses]

        async def until_the_end() -> str:
            holds.set()
            await ends.wait()
            return "still here"

        async def seen(name: str) -> None:
            # Links stay with the certificate that they were opened with, and are replaced after minutes.
            for link in service.linked_audit.GetCheckpoint._channel._links:
                if link is not None:
                    link._retire()
            await eventually(lambda: name in service.servicer.peers, timeout=20)

        def issue(by: CertificateAuthority, name: str, trust: bytes) -> Issued:
            by.issue(tmp_path / "caller", name, trust=trust)
            return by.issue(tmp_path / "server", "127.0.0.1", trust=trust)

        async with asyncio.TaskGroup() as group:
            service.servicer.behaviour = until_the_end
            lasting = group.create_task(long_call())
            await holds.wait()
            service.servicer.behaviour = service.servicer._nothing
            for stub in (service.audit, service.audit, service.linked_audit):
                group.create_task(call(stub))
            await seen("caller.one")
            # Both authorities are trusted, then certificates are the new one's, then the old one is gone.
            for by, name, trust in (
                (old, "caller.two", old.pem + new.pem),
                (new, "caller.three", old.pem + new.pem),
                (new, "caller.four", new.pem),
            ):
                issued = issue(by, name, trust)
                await seen(name)
                for port in (grpc_port, link_port):
                    await eventually(partial(shows, port, caller, issued), timeout=20)
            before = made
            await eventually(lambda: made > before + 20, timeout=20)
            ends.set()
        assert await lasting == [b"one", b"two", b"still here"]
        with pytest.raises(ssl.SSLError):
            await serial_at(grpc_port, side("late", "caller.one", trust=old.pem))


@pytest.mark.usefixtures("look_often")
async def test_new_files_that_cannot_be_used_leave_those_before_them_in_force(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], signing: Any, tmp_path: Path
) -> None:
    server, caller = side("server", "127.0.0.1"), side("caller", "caller.example")
    async with serving(tls=server, caller_tls=caller) as service:
        in_force = server.current()
        for folder in ("server", "caller"):
            authority.issue(tmp_path / folder, "127.0.0.1", begins=timedelta(days=-2), ends=timedelta(days=-1))
        await invoke(service.audit.GetCheckpoint, REQUEST, token=signing.token("alice"), timeout=10)
        assert server.current() is in_force
        issued = authority.issue(tmp_path / "server", "127.0.0.1")
        port = int(service.target.rpartition(":")[2])
        await eventually(partial(shows, port, caller, issued), timeout=20)


@pytest.mark.usefixtures("look_often")
async def test_a_new_certificate_that_the_server_does_not_accept_yet_ends_no_connection(
    serving: Callable[..., Any],
    side: Callable[..., ServiceTls],
    signing: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls_channel, "_READY_WITHIN", 1.0)
    server, caller = side("server", "127.0.0.1"), side("caller", "caller.one")
    async with serving(tls=server, caller_tls=caller) as service:
        both, peers = authority.pem + stranger.pem, service.servicer.peers

        async def call() -> bool:
            await invoke(service.audit.GetCheckpoint, REQUEST, token=signing.token("alice"), timeout=20)
            return True

        assert await call()
        # The caller's certificate is the new authority's before the server has heard of that one.
        stranger.issue(tmp_path / "caller", "caller.two", trust=both)
        channel: Any = service.audit.GetCheckpoint._owner
        await call()
        if channel._renewing is not None:
            await asyncio.wait([channel._renewing])
        assert await call()
        assert peers == {"caller.one"}
        authority.issue(tmp_path / "server", "127.0.0.1", trust=both)

        async def taken_up() -> bool:
            return await call() and "caller.two" in peers

        await eventually(taken_up, timeout=30)


async def test_a_service_that_gets_no_token_is_told_that_tls_is_why(
    serving: Callable[..., Any], side: Callable[..., ServiceTls], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ServiceTokenSource, "_TIMEOUT", 2.0)
    async with serving(tls=side("server", "127.0.0.1", by=stranger)) as service:
        source = ServiceTokenSource(service.target, "memory", "s3cret", side("caller", "caller.example"))
        with pytest.raises(SlipwayError):
            await source.token()
        await source.close()
    assert "no authority in TLS_CA_FILE has signed its certificate" in told[0]


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("localhost:50051", "localhost"),
        ("dns:///slipway-router.team.svc:50051", "slipway-router.team.svc"),
        ("[::1]:50051", "::1"),
        ("ipv4:127.0.0.1:50051", "127.0.0.1"),
        ("ipv4:10.0.0.1:50051,10.0.0.2:50051", "10.0.0.2"),
        ("ipv6:[::1]:50051,[::2]:50051", "::2"),
    ],
)
def test_the_host_of_a_target_is_what_its_certificate_names(target: str, host: str) -> None:
    assert tls_module.host_of(target) == host
