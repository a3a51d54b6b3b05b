"""Files: bytes in, the same bytes out, for those who may have them and as long as they may."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator

import pytest
from google.protobuf.duration_pb2 import Duration
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import ErrorKind, RemoteError
from slipway_testkit.waiting import eventually

MIB = 1024 * 1024


async def refusal(call) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


@pytest.mark.parametrize("size", [0, 1, 65536, 3 * MIB + 17])
async def test_a_file_comes_back_byte_for_byte_with_its_digest(alice, size):
    data = os.urandom(size)
    file = await alice.upload(data, "orders.bin", content_type="application/x-orders")
    assert (file.size_bytes, file.digest) == (size, f"sha256:{hashlib.sha256(data).hexdigest()}")
    assert (file.owner, file.filename, file.content_type) == ("alice", "orders.bin", "application/x-orders")
    assert await alice.download(file.file_id) == (file, data)
    assert (await alice.call(alice.files.GetFile, pb.GetFileRequest(file_id=file.file_id))).file == file


async def test_a_file_lives_thirty_days_unless_said_otherwise(alice):
    file = await alice.upload(b"x")
    assert file.content_type == "application/octet-stream"
    assert file.expire_time.seconds - file.create_time.seconds == 30 * 86400
    short = await alice.upload(b"x", ttl=Duration(seconds=90))
    assert short.expire_time.seconds - short.create_time.seconds == 90


async def test_a_file_is_for_its_owner_and_its_readers(alice):
    file = await alice.upload(b"secret", readers=["user:bob", "role:auditor"])
    for reader in (alice.as_("bob"), alice.as_("carol", ["auditor"]), alice.as_("dave", ["platform-admin"])):
        assert (await reader.download(file.file_id))[1] == b"secret"
    for stranger in (
        alice.as_("erin"),
        alice.as_("eve", ["developer", "operator"]),
        alice.as_("gina", ["developer", "platform-admin"], tenant=f"{alice.tenant}x"),
    ):
        for call in (
            stranger.download(file.file_id),
            stranger.call(stranger.files.GetFile, pb.GetFileRequest(file_id=file.file_id)),
            stranger.call(stranger.files.DeleteFile, pb.DeleteFileRequest(file_id=file.file_id)),
        ):
            error = await refusal(call)
            assert (error.kind, error.reason) == (ErrorKind.NOT_FOUND, "FILE_NOT_FOUND")
    bob = alice.as_("bob")
    error = await refusal(bob.call(bob.files.DeleteFile, pb.DeleteFileRequest(file_id=file.file_id)))
    assert (error.kind, error.reason) == (ErrorKind.PERMISSION_DENIED, "POLICY_DENIED")
    assert (await refusal(alice.as_("erin").upload(b"x"))).reason == "POLICY_DENIED"


async def test_an_agent_that_acts_for_the_owner_uses_the_owners_files(alice):
    file = await alice.upload(b"orders")
    agent = alice.as_("alice", ["developer"], act="refund-desk@3")
    assert (await agent.download(file.file_id))[1] == b"orders"


async def test_a_deleted_file_is_gone_with_its_bytes(alice, memory, audit_events):
    file = await alice.upload(b"orders")
    folder = memory.objects / "files" / alice.tenant
    assert [one.read_bytes() for one in folder.iterdir()] == [b"orders"]
    await alice.call(alice.files.DeleteFile, pb.DeleteFileRequest(file_id=file.file_id))
    assert (await refusal(alice.download(file.file_id))).reason == "FILE_NOT_FOUND"
    again = alice.call(alice.files.DeleteFile, pb.DeleteFileRequest(file_id=file.file_id))
    assert (await refusal(again)).reason == "FILE_NOT_FOUND"
    await eventually(lambda: not list(folder.iterdir()))

    def recorded():
        own = sorted((e["id"], e["type"]) for _, e in audit_events if e["tenant"] == alice.tenant)
        return [kind for _, kind in own] == ["file.uploaded", "file.deleted"]

    await eventually(recorded)


async def test_an_expired_file_is_gone_with_its_bytes(alice, memory):
    file = await alice.upload(b"orders", ttl=Duration(seconds=1))
    assert (await alice.download(file.file_id))[1] == b"orders"

    async def gone():
        try:
            await alice.download(file.file_id)
        except RemoteError as error:
            return error.reason == "FILE_NOT_FOUND"
        return False

    await eventually(gone)
    await eventually(lambda: not list((memory.objects / "files" / alice.tenant).iterdir()))


async def test_a_request_id_makes_an_upload_happen_once(alice, memory):
    first = await alice.upload(b"orders", request_id="u-1")
    assert await alice.upload(b"orders", request_id="u-1") == first
    error = await refusal(alice.upload(b"others", request_id="u-1"))
    assert (error.reason, error.field) == ("IDEMPOTENCY_KEY_REUSED", "request_id")
    assert (await alice.download(first.file_id))[1] == b"orders"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"filename": ""}, "filename"),
        ({"filename": "a/b"}, "filename"),
        ({"filename": ".."}, "filename"),
        ({"filename": "a\nb"}, "filename"),
        ({"readers": ["bob"]}, "readers[0]"),
        ({"ttl": Duration(seconds=-1)}, "ttl"),
        ({"ttl": Duration(seconds=400 * 86400)}, "ttl"),
        ({"content_type": "x" * 201}, "content_type"),
    ],
    ids=str,
)
async def test_a_wrong_description_names_the_field(alice, fields, field):
    error = await refusal(alice.upload(b"x", **fields))
    assert (error.kind, error.field) == (ErrorKind.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("file_id", ["", "../../etc/passwd", "file_01", "ses_01jd0000000000000000000000"])
async def test_what_is_no_file_id_is_not_found(alice, file_id):
    assert (await refusal(alice.download(file_id))).reason == "FILE_NOT_FOUND"


async def test_limits_of_a_file_and_of_a_tenant_hold_and_nothing_is_kept(
    start_memory, new_database, new_client, router
):
    memory = start_memory(new_database(), file_bytes=MIB, file_quota_bytes=2 * MIB, sweep_interval=0.2)
    alice = new_client(memory)
    error = await refusal(alice.upload(b"x" * (MIB + 1)))
    assert (error.kind, error.reason, error.metadata["limit_bytes"]) == (
        ErrorKind.RESOURCE_EXHAUSTED,
        "FILE_TOO_LARGE",
        str(MIB),
    )
    first, _ = await alice.upload(b"x" * MIB), await alice.upload(b"y" * MIB)
    error = await refusal(alice.upload(b"z"))
    assert (error.reason, error.metadata["used_bytes"]) == ("FILE_QUOTA_EXCEEDED", str(2 * MIB))
    # Another tenant's quota is its own; room that was made can be used.
    assert await alice.as_("gina", ["developer"], tenant=f"{alice.tenant}x").upload(b"z")
    await alice.call(alice.files.DeleteFile, pb.DeleteFileRequest(file_id=first.file_id))
    assert await alice.upload(b"z")
    assert len(list((memory.objects / "files" / alice.tenant).iterdir())) >= 2


async def test_an_upload_begins_with_its_description(alice):
    async def parts() -> AsyncIterator[pb.UploadFileRequest]:
        yield pb.UploadFileRequest(data=b"x")

    assert (await refusal(alice.call(alice.files.UploadFile, parts()))).reason == "UPLOAD_INVALID"


async def test_an_object_whose_upload_was_never_finished_is_deleted_when_its_time_has_passed(memory, memory_database):
    import asyncpg

    left = memory.objects / "files" / "lost" / "file_left_behind"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half an upload")
    connection = await asyncpg.connect(memory_database)
    await connection.execute("INSERT INTO orphan_object VALUES ('files/lost/file_left_behind', now())")
    await eventually(lambda: not left.exists())
    await connection.close()


async def test_tenants_whose_names_look_like_paths_stay_in_their_folder(alice, memory):
    intruder = alice.as_("ivan", ["developer"], tenant="../../escape me")
    file = await intruder.upload(b"data")
    assert (await intruder.download(file.file_id))[1] == b"data"
    (folder,) = [one for one in (memory.objects / "files").iterdir() if "escape" in one.name]
    assert [one.read_bytes() for one in folder.iterdir()] == [b"data"]
