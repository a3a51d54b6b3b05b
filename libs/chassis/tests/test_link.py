"""Calls over links behave as calls by themselves do, and share messages."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import grpc
import pytest
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway.link.v1 import link_pb2
from slipway_chassis import link, telemetry
from slipway_chassis.caller import current_caller, current_token
from slipway_chassis.channel import connect, invoke, stream
from slipway_chassis.deadline import remaining
from slipway_chassis.errors import ErrorKind, FailedPrecondition, FieldViolation, RemoteError
from slipway_chassis.frames import PREFACE
from slipway_chassis.link import LINKS, LinkedChannel
from slipway_chassis.link_server import LinkServer
from slipway_testkit.waiting import eventually

REQUEST = audit_pb2.GetCheckpointRequest()
METHOD = "/slipway.audit.v1.AuditService/GetCheckpoint"


class Closed(FailedPrecondition):
    reason = "SHOP_CLOSED"


def served(method: str, code: str) -> float:
    name = "slipway_grpc_server_requests_total"
    return telemetry.registry.get_sample_value(name, {"method": method, "code": code}) or 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The links that were opened."""
    links: list[Any] = []
    plain = LinkServer.opened

    def counting(self: LinkServer, one: Any) -> None:
        links.append(one)
        plain(self, one)

    monkeypatch.setattr(LinkServer, "opened", counting)
    return links


async def test_a_linked_call_has_its_own_caller_trace_and_deadline(
    opened: list[Any], service: Any, signing: Any
) -> None:
    seen: list[Any] = []

    async def behaviour() -> str:
        seen.append((current_caller().subject, current_token(), telemetry.current_trace_id(), remaining()))
        return "done"

    service.servicer.behaviour = behaviour
    tokens = {name: signing.token(name) for name in ("alice", "bob")}
    traces: dict[str, str] = {}

    async def ask(name: str, timeout: float) -> None:
        with telemetry.span("test"):
            traces[name] = telemetry.current_trace_id()
            answer = await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=tokens[name], timeout=timeout)
            assert answer.note == "done"

    before = served(METHOD, "OK")
    await asyncio.gather(ask("alice", 20), ask("bob", 40))
    assert served(METHOD, "OK") == before + 2
    assert {(subject, token, trace) for subject, token, trace, _ in seen} == {
        (name, tokens[name], traces[name]) for name in tokens
    }
    assert sorted(round(left / 20) for *_, left in seen) == [1, 2]
    # Calls of one moment go over one link.
    assert len(opened) == 1


async def test_calls_of_one_moment_share_a_message(service: Any, signing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    token = signing.token()
    sent: list[link_pb2.CallerMessage] = []
    frame = link.frame

    def counting(message: Any) -> bytes:
        sent.append(message)
        return frame(message)

    monkeypatch.setattr(link, "frame", counting)
    calls = (invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=5) for _ in range(50))
    await asyncio.gather(*calls)
    assert [len(message.calls) for message in sent] == [50]


async def test_an_error_arrives_over_a_link_as_it_was_raised(service: Any, signing: Any) -> None:
    violations = [FieldViolation("items[0].price", "is negative")]

    async def behaviour() -> str:
        raise Closed("closed until nine", violations=violations, metadata={"opens": "09:00"}, retry_after=1.5)

    service.servicer.behaviour = behaviour
    with pytest.raises(RemoteError) as raised:
        await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=5)
    error = raised.value
    assert (error.kind, error.reason, error.message) == (
        ErrorKind.FAILED_PRECONDITION,
        "SHOP_CLOSED",
        "closed until nine",
    )
    assert (error.violations, error.metadata, error.retry_after) == (tuple(violations), {"opens": "09:00"}, 1.5)
    assert error.trace_id


async def test_a_bug_shows_nothing_of_itself_over_a_link(service: Any, signing: Any) -> None:
    async def behaviour() -> str:
        raise RuntimeError("secret detail")

    service.servicer.behaviour = behaviour
    with pytest.raises(RemoteError) as raised:
        await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=5)
    assert raised.value.kind is ErrorKind.INTERNAL
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("token", ["", "nonsense"])
async def test_a_linked_call_without_a_good_token_is_unauthenticated(service: Any, token: str) -> None:
    with pytest.raises(RemoteError) as raised:
        await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=5)
    assert raised.value.kind is ErrorKind.UNAUTHENTICATED


async def test_a_caller_who_gives_up_cancels_the_handler_and_no_other(service: Any, signing: Any) -> None:
    begun, other = asyncio.Event(), asyncio.Event()

    async def behaviour() -> str:
        begun.set()
        await other.wait()
        return "late"

    service.servicer.behaviour = behaviour
    token = signing.token()
    leaving = asyncio.create_task(invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=30))
    staying = asyncio.create_task(invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=30))
    await asyncio.wait_for(begun.wait(), 10)
    leaving.cancel()
    await asyncio.wait_for(service.servicer.cancelled.wait(), 10)
    other.set()
    assert (await staying).note == "late"


async def test_the_deadline_ends_both_sides_of_a_linked_call(service: Any, signing: Any) -> None:
    service.servicer.behaviour = asyncio.Event().wait
    with pytest.raises(RemoteError) as raised:
        await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=0.2)
    assert raised.value.kind is ErrorKind.DEADLINE_EXCEEDED
    await asyncio.wait_for(service.servicer.cancelled.wait(), 10)


async def test_streams_of_a_linked_channel_are_plain_ones(service: Any, signing: Any) -> None:
    request = audit_pb2.ExportRunEvidenceRequest()
    parts = stream(service.linked_audit.ExportRunEvidence, request, token=signing.token(), timeout=5)
    assert [part.data async for part in parts] == [b"one", b"two", b""]


async def test_a_broken_link_ends_its_calls_as_unavailable_and_the_next_call_opens_another(
    opened: list[Any], service: Any, signing: Any
) -> None:
    begun, token = asyncio.Event(), signing.token()

    async def behaviour() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    service.servicer.behaviour = behaviour
    call = asyncio.create_task(invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=30))
    await asyncio.wait_for(begun.wait(), 10)
    opened[0].abort()
    with pytest.raises(RemoteError) as raised:
        await call
    assert raised.value.kind is ErrorKind.UNAVAILABLE
    # A caller whose connection is gone has given up.
    await asyncio.wait_for(service.servicer.cancelled.wait(), 10)
    service.servicer.behaviour = service.servicer._nothing
    for _ in range(LINKS):
        await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=5)
    assert len(opened) == LINKS + 1


async def test_calls_go_on_when_the_server_comes_back(
    serving: Callable[..., Any], signing: Any, free_port: Callable[[], int]
) -> None:
    token, port = signing.token(), free_port()
    async with serving(port) as first:
        await invoke(first.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=5)
        await first.server.stop(None)
        await first.links.stop(0)
        async with serving(port):

            async def answered() -> bool:
                try:
                    await invoke(first.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=5)
                except RemoteError:
                    return False
                return True

            await eventually(answered, 20)


async def test_a_server_that_stops_answers_what_is_under_way(service: Any, signing: Any) -> None:
    begun, going_on = asyncio.Event(), asyncio.Event()

    async def behaviour() -> str:
        begun.set()
        await going_on.wait()
        return "whole"

    service.servicer.behaviour = behaviour
    token = signing.token()
    call = asyncio.create_task(invoke(service.linked_audit.GetCheckpoint, REQUEST, token=token, timeout=30))
    await asyncio.wait_for(begun.wait(), 10)
    stopping = asyncio.create_task(service.links.stop(60))
    going_on.set()
    assert (await call).note == "whole"
    # The caller has closed its link, so that the server need not wait for its grace to pass.
    await asyncio.wait_for(stopping, 20)


async def test_a_server_that_stops_waits_no_longer_than_its_grace(service: Any, signing: Any) -> None:
    begun = asyncio.Event()

    async def behaviour() -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    service.servicer.behaviour = behaviour
    call = asyncio.create_task(invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=60))
    await asyncio.wait_for(begun.wait(), 10)
    await asyncio.wait_for(service.links.stop(0.05), 20)
    with pytest.raises(RemoteError) as raised:
        await call
    assert raised.value.kind is ErrorKind.UNAVAILABLE


async def test_links_are_replaced_when_they_are_old(
    opened: list[Any], service: Any, signing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_AGE", 0.0)
    for _ in range(LINKS * 2):
        await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=5)
    assert len(opened) == LINKS * 2
    await eventually(lambda: len(service.links._open) == LINKS)


async def test_a_server_that_takes_no_links_is_called_without(serving: Callable[..., Any], signing: Any) -> None:
    async with serving(with_links=False) as old:
        calls = [invoke(old.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=5) for _ in range(3)]
        assert len(await asyncio.gather(*calls)) == 3


async def test_a_large_request_goes_by_itself(
    opened: list[Any], service: Any, signing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_MOST_REQUEST_BYTES", -1)
    await invoke(service.linked_audit.GetCheckpoint, REQUEST, token=signing.token(), timeout=5)
    assert opened == []


@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", PREFACE + b"\xff\xff\xff\xff", PREFACE + b"\x00\x00\x00\x03abc"],
    ids=["another protocol", "too long", "no message"],
)
async def test_what_is_no_link_is_hung_up_on(service: Any, said: bytes) -> None:
    address = (await service.links.GetLinkAddress(None, None)).address
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(said)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_another_machines_loopback_is_never_linked_to(opened: list[Any], service: Any, signing: Any) -> None:
    port = service.target.rpartition(":")[2]
    channel = LinkedChannel(connect(service.target), f"router.example:{port}")
    stub = audit_pb2_grpc.AuditServiceStub(cast(grpc.aio.Channel, channel))
    await invoke(stub.GetCheckpoint, REQUEST, token=signing.token(), timeout=5)
    await channel.close()
    assert opened == []


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", ":0", "127.0.0.1:port"])
async def test_an_address_that_callers_cannot_be_told_is_refused(address: str) -> None:
    with pytest.raises(OSError, match="cannot"):
        await LinkServer(lambda _, behaviour: behaviour).start(address)
