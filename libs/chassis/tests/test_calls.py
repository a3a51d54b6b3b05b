"""What happens around a call: caller, deadline, errors, trace, metrics; both sides of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import grpc
import pytest
from slipway.audit.v1 import audit_pb2
from slipway.identity.v1 import identity_pb2
from slipway.memory.v1 import memory_pb2
from slipway_chassis import telemetry
from slipway_chassis.caller import current_caller, current_token
from slipway_chassis.channel import connect, invoke, stream
from slipway_chassis.deadline import bind_deadline, clear_deadline, remaining
from slipway_chassis.errors import (
    DeadlineExceeded,
    ErrorKind,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    RemoteError,
    Unauthenticated,
)

CHECKPOINT = audit_pb2.GetCheckpointRequest()
METHOD = "/slipway.audit.v1.AuditService/GetCheckpoint"


class Closed(FailedPrecondition):
    reason = "SHOP_CLOSED"


def counted(method: str, code: str, side: str = "server") -> float:
    name = f"slipway_grpc_{side}_requests_total"
    return telemetry.registry.get_sample_value(name, {"method": method, "code": code}) or 0


async def failing(service: Any, signing: Any, error: Exception) -> RemoteError:
    """What a caller gets when the handler raises `error`."""

    async def behaviour() -> str:
        raise error

    service.servicer.behaviour = behaviour
    with pytest.raises(RemoteError) as raised:
        await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)
    return raised.value


async def test_a_handler_sees_the_verified_caller_and_its_token(service: Any, signing: Any) -> None:
    token = signing.token("bob", "globex", roles=["reviewer"], act="refund-desk@3", run_id="run_1", name="Bob")

    async def behaviour() -> str:
        caller = current_caller()
        assert current_token() == token
        return f"{caller.subject} {caller.tenant} {sorted(caller.roles)} {caller.act} {caller.run_id} {caller.name}"

    service.servicer.behaviour = behaviour
    answer = await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=token, timeout=5)
    assert answer.note == "bob globex ['reviewer'] refund-desk@3 run_1 Bob"


async def test_there_is_no_caller_outside_of_a_call() -> None:
    with pytest.raises(Unauthenticated):
        current_caller()
    with pytest.raises(Unauthenticated):
        current_token()


@pytest.mark.parametrize("metadata", [[], [("authorization", "Bearer nonsense")], [("authorization", "Basic YTpi")]])
async def test_a_call_without_a_good_token_is_unauthenticated(service: Any, metadata: list[Any]) -> None:
    called = False

    async def behaviour() -> str:
        nonlocal called
        called = True
        return ""

    service.servicer.behaviour = behaviour
    for call in (
        lambda: service.audit.GetCheckpoint(CHECKPOINT, metadata=metadata, timeout=5),
        lambda: service.audit.ExportRunEvidence(
            audit_pb2.ExportRunEvidenceRequest(), metadata=metadata, timeout=5
        ).read(),
        lambda: service.files.UploadFile(iter([]), metadata=metadata, timeout=5),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not called


async def test_a_declared_public_method_needs_no_token(service: Any) -> None:
    request = identity_pb2.IssueServiceTokenRequest(service="audit")
    answer = await invoke(service.identity.IssueServiceToken, request, token="", timeout=5)
    assert answer.token == "token of audit"
    exchange = identity_pb2.ExchangeRunGrantRequest()
    with pytest.raises(RemoteError) as refused:
        await invoke(service.identity.ExchangeRunGrant, exchange, token="", timeout=5)
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED


async def test_a_call_without_a_deadline_is_refused_also_on_a_public_method(service: Any, signing: Any) -> None:
    metadata = [("authorization", f"Bearer {signing.token()}")]
    for call in (
        service.audit.GetCheckpoint(CHECKPOINT, metadata=metadata),
        service.identity.IssueServiceToken(identity_pb2.IssueServiceTokenRequest()),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert b"DEADLINE_REQUIRED" in dict(refused.value.trailing_metadata())["grpc-status-details-bin"]


async def test_a_domain_error_arrives_as_it_was_raised(service: Any, signing: Any) -> None:
    violations = [FieldViolation("items[0].price", "is negative"), FieldViolation("items[1]", "is missing")]
    sent = Closed("closed until nine", violations=violations, metadata={"opens": "09:00"}, retry_after=1.5)
    got = await failing(service, signing, sent)
    assert (got.kind, got.reason, got.message) == (ErrorKind.FAILED_PRECONDITION, "SHOP_CLOSED", "closed until nine")
    assert list(got.violations) == violations
    assert got.metadata == {"opens": "09:00"}
    assert got.retry_after == 1.5
    assert len(got.trace_id) == 32


async def test_an_error_passes_through_two_services_unchanged(service: Any, signing: Any) -> None:
    first = await failing(service, signing, InvalidArgument("too long", field="name"))
    second = await failing(service, signing, first)
    assert (second.kind, second.reason, second.field, second.message) == (
        ErrorKind.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        "name",
        "too long",
    )


@pytest.mark.parametrize("error", [KeyError("card 4711"), Internal("card 4711"), AssertionError("card 4711")])
async def test_an_unexpected_error_shows_a_trace_id_and_nothing_else(
    service: Any, signing: Any, error: Exception
) -> None:
    got = await failing(service, signing, error)
    assert (got.kind, got.reason) == (ErrorKind.INTERNAL, "INTERNAL")
    assert got.message == f"internal error (trace {got.trace_id})"
    assert "4711" not in repr(got) + str(got.metadata) + str(got.__cause__)


async def test_a_database_that_is_away_is_unavailable_not_a_bug(service: Any, signing: Any) -> None:
    got = await failing(service, signing, asyncpg.ConnectionDoesNotExistError("host 10.0.0.1"))
    assert (got.kind, got.reason) == (ErrorKind.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert "10.0.0.1" not in got.message


async def test_a_very_long_error_still_arrives(service: Any, signing: Any) -> None:
    violations = [FieldViolation(f"spec.steps[{n}]" + "x" * 300, "é" * 1000) for n in range(200)]
    got = await failing(service, signing, InvalidArgument("ü" * 5000, violations=violations))
    assert got.kind is ErrorKind.INVALID_ARGUMENT
    assert got.message.startswith("üüü")
    assert got.violations[0].field.startswith("spec.steps[0]")


async def test_a_server_that_is_away_is_unavailable_and_its_address_stays_in_the_cause(
    signing: Any, free_port: Callable[[], int]
) -> None:
    target = f"127.0.0.1:{free_port()}"
    channel = connect(target)
    call = channel.unary_unary(METHOD)
    with pytest.raises(RemoteError) as raised:
        await invoke(call, b"", token=signing.token(), timeout=5)
    await channel.close()
    assert (raised.value.kind, raised.value.reason) == (ErrorKind.UNAVAILABLE, "UNAVAILABLE")
    assert target not in str(raised.value)
    assert isinstance(raised.value.__cause__, grpc.aio.AioRpcError)
    assert counted(METHOD, "UNAVAILABLE", "client") >= 1


async def test_the_deadline_travels_and_only_shrinks(service: Any, signing: Any) -> None:
    seen: list[float] = []

    async def behaviour() -> str:
        left = remaining()
        assert left is not None
        seen.append(left)
        if len(seen) == 1:
            # Asks for a minute and gets what is left of the incoming call.
            await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=current_token(), timeout=60)
        return ""

    service.servicer.behaviour = behaviour
    await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)
    outer, inner = seen
    # gRPC sends deadlines with three digits, rounded up.
    assert inner <= outer * 1.01 <= 5.1


async def test_a_call_is_not_begun_when_no_time_is_left(service: Any, signing: Any) -> None:
    before = counted(METHOD, "OK")
    bind_deadline(0)
    with pytest.raises(DeadlineExceeded):
        await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)
    assert counted(METHOD, "OK") == before
    clear_deadline()
    await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)


async def test_a_deadline_that_passes_cancels_the_handler(service: Any, signing: Any) -> None:
    async def behaviour() -> str:
        await asyncio.Event().wait()
        return ""

    service.servicer.behaviour = behaviour
    with pytest.raises(RemoteError) as raised:
        await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=0.3)
    assert raised.value.kind is ErrorKind.DEADLINE_EXCEEDED
    await asyncio.wait_for(service.servicer.cancelled.wait(), 10)


async def test_a_stream_arrives_in_parts_and_its_error_after_them(service: Any, signing: Any) -> None:
    async def behaviour() -> str:
        raise Closed("closed in the middle")

    request = audit_pb2.ExportRunEvidenceRequest()
    parts = [p.data async for p in stream(service.audit.ExportRunEvidence, request, token=signing.token(), timeout=5)]
    assert parts == [b"one", b"two", b""]
    service.servicer.behaviour = behaviour
    broken = stream(service.audit.ExportRunEvidence, request, token=signing.token(), timeout=5)
    got = [(await anext(broken)).data, (await anext(broken)).data]
    with pytest.raises(RemoteError) as raised:
        await anext(broken)
    assert got == [b"one", b"two"]
    assert raised.value.reason == "SHOP_CLOSED"


async def test_leaving_a_stream_cancels_it_at_the_server(service: Any, signing: Any) -> None:
    async def behaviour() -> str:
        await asyncio.Event().wait()
        return ""

    service.servicer.behaviour = behaviour
    request = audit_pb2.ExportRunEvidenceRequest()
    parts = stream(service.audit.ExportRunEvidence, request, token=signing.token(), timeout=60)
    assert (await anext(parts)).data == b"one"
    await parts.aclose()
    await asyncio.wait_for(service.servicer.cancelled.wait(), 10)


async def test_a_stream_of_requests_is_sent(service: Any, signing: Any) -> None:
    async def parts() -> AsyncIterator[memory_pb2.UploadFileRequest]:
        for _ in range(3):
            yield memory_pb2.UploadFileRequest(data=b"x" * 1000)

    answer = await invoke(service.files.UploadFile, parts(), token=signing.token(), timeout=5)
    assert answer.file.size_bytes > 3000


async def test_a_call_belongs_to_the_callers_trace(service: Any, signing: Any) -> None:
    async def behaviour() -> str:
        return telemetry.current_trace_id()

    service.servicer.behaviour = behaviour
    with telemetry.span("outer"):
        ours = telemetry.current_trace_id()
        answer = await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)
    assert answer.note == ours
    alone = await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)
    assert len(alone.note) == 32
    assert alone.note != ours


async def test_calls_are_counted_by_method_and_code_on_both_sides(service: Any, signing: Any) -> None:
    before = [counted(METHOD, "OK", side) for side in ("server", "client")]
    refused = counted(METHOD, "FAILED_PRECONDITION")
    await invoke(service.audit.GetCheckpoint, CHECKPOINT, token=signing.token(), timeout=5)
    await failing(service, signing, Closed("closed"))
    assert [counted(METHOD, "OK", side) for side in ("server", "client")] == [n + 1 for n in before]
    assert counted(METHOD, "FAILED_PRECONDITION") == refused + 1
    count = telemetry.registry.get_sample_value("slipway_grpc_server_duration_seconds_count", {"method": METHOD})
    assert count is not None
    assert count >= 2


async def test_a_restarted_server_is_found_again_within_seconds(
    signing: Any, serving: Any, free_port: Callable[[], int], eventually: Callable[..., Awaitable[object]]
) -> None:
    port = free_port()
    async with serving(port) as first:
        channel = connect(first.target)
        call = channel.unary_unary(
            METHOD,
            request_serializer=audit_pb2.GetCheckpointRequest.SerializeToString,
            response_deserializer=audit_pb2.GetCheckpointResponse.FromString,
        )
        await invoke(call, CHECKPOINT, token=signing.token(), timeout=5)
    with pytest.raises(RemoteError):
        await invoke(call, CHECKPOINT, token=signing.token(), timeout=5)

    async def answers() -> bool:
        try:
            await invoke(call, CHECKPOINT, token=signing.token(), timeout=5)
        except RemoteError:
            return False
        return True

    async with serving(port):
        await eventually(answers, timeout=6)
    await channel.close()


async def test_the_failure_of_a_task_group_is_that_of_its_task(service: Any, signing: Any) -> None:
    got = await failing(service, signing, ExceptionGroup("tasks", [Closed("closed"), InvalidArgument("odd")]))
    assert got.reason == "SHOP_CLOSED"
    # As soon as one of them is a bug, nothing may be told.
    got = await failing(service, signing, ExceptionGroup("tasks", [Closed("closed"), KeyError("card 4711")]))
    assert (got.kind, got.reason) == (ErrorKind.INTERNAL, "INTERNAL")
    assert "4711" not in got.message


async def test_misuse_of_the_database_driver_is_a_bug_not_an_outage(service: Any, signing: Any) -> None:
    error = asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
    assert (await failing(service, signing, error)).kind is ErrorKind.INTERNAL
