"""One suite over both kinds of object store: a folder, and an S3 server."""

import asyncio
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slipway_memory.errors import ObjectNotFound, ObjectStoreRefused, ObjectStoreUnavailable
from slipway_memory.objects import Objects, object_key, open_objects
from slipway_testkit.servers.versitygw import S3Server

MIB = 1024 * 1024


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.servers)])
def objects_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, once per kind."""
    if request.param == "folder":
        return f"file://{tmp_path / 'objects'}"
    server: S3Server = request.getfixturevalue("s3_server")
    return server.url(server.create_bucket())


@pytest.fixture
async def objects(objects_url: str) -> Objects:
    return await open_objects(objects_url)


@pytest.fixture
def s3(s3_server: S3Server):
    """The session's server; a test that stops it need not start it again."""
    yield s3_server
    s3_server.start_if_stopped()


async def content(objects: Objects, key: str) -> bytes:
    return b"".join([part async for part in objects.read(key)])


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 9 * MIB + 7], ids=["nothing", "a byte", "a part", "several parts"])
async def test_what_is_put_is_read_unchanged(objects, size):
    data = os.urandom(size)
    await objects.put("files/acme/one", io.BytesIO(data))
    assert await content(objects, "files/acme/one") == data


async def test_a_file_is_put_from_its_beginning_wherever_it_stands(objects):
    file = io.BytesIO(b"whole")
    file.read()
    await objects.put("files/acme/one", file)
    assert await content(objects, "files/acme/one") == b"whole"


async def test_a_put_replaces_what_was_there(objects):
    await objects.put("files/acme/one", io.BytesIO(b"a long first text"))
    await objects.put("files/acme/one", io.BytesIO(b"second"))
    assert await content(objects, "files/acme/one") == b"second"


@pytest.mark.parametrize("tenant", ["acme", "Łódź & Söhne", "a/b", "..", "日本", "100%", "a b"])
async def test_every_tenant_has_a_place_of_its_own(objects, tenant):
    key, neighbour = object_key(tenant, "files", "one"), object_key("neighbour", "files", "one")
    await objects.put(key, io.BytesIO(tenant.encode()))
    await objects.put(neighbour, io.BytesIO(b"neighbour"))
    assert await content(objects, key) == tenant.encode()
    await objects.delete(key)
    with pytest.raises(ObjectNotFound):
        await content(objects, key)
    assert await content(objects, neighbour) == b"neighbour"


async def test_an_object_that_is_not_there_is_told_apart_from_a_store_that_is_not(objects):
    with pytest.raises(ObjectNotFound) as missing:
        await content(objects, "files/acme/missing")
    assert missing.value.reason == "OBJECT_NOT_FOUND"


async def test_deleting_twice_is_as_good_as_once(objects):
    await objects.put("files/acme/one", io.BytesIO(b"x"))
    await objects.delete("files/acme/one")
    await objects.delete("files/acme/one")
    with pytest.raises(ObjectNotFound):
        await content(objects, "files/acme/one")


async def test_an_empty_store_answers_its_check(objects):
    await objects.check()


_LARGE = """
import asyncio, os, re, sys, tempfile
from pathlib import Path
from slipway_memory.objects import open_objects

SIZE = 192 * 1024 * 1024

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

async def main(url):
    objects = await open_objects(url)
    with tempfile.TemporaryFile() as file:
        for _ in range(SIZE // 1048576):
            file.write(b"x" * 1048576)
        before = peak()
        await objects.put("files/acme/large", file)
    size = 0
    async for part in objects.read("files/acme/large"):
        assert len(part) <= 65536
        size += len(part)
    assert size == SIZE, size
    grown = peak() - before
    await objects.delete("files/acme/large")
    print(grown, flush=True)
    # At once: threads of the client library that have just answered don't bear the end of the interpreter.
    os._exit(0)

asyncio.run(main(sys.argv[1]))
"""


def test_memory_does_not_grow_with_the_object(objects_url):
    # In a process of its own, whose peak nothing else has raised.
    done = subprocess.run([sys.executable, "-c", _LARGE, objects_url], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 96, f"{done.stdout.strip()} MiB for an object of 192 MiB"


async def test_a_folder_that_vanished_is_named_by_the_check(tmp_path):
    objects = await open_objects(f"file://{tmp_path / 'objects'}")
    (tmp_path / "objects").rmdir()
    with pytest.raises(ObjectStoreRefused, match="is not there"):
        await objects.check()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://x", "must be file:///folder or s3://bucket"),
        ("file://", "must be file:///"),
        ("file:///", "must be file:///"),
        ("file:///dev/null/objects", "the folder /dev/null/objects can't be made: Not a directory"),
        ("s3://", "must name a bucket"),
        ("s3://bucket:9000/x", "must name a bucket"),
        ("s3://hidden@bucket", "must hold both keys or none"),
        ("s3://bucket?endpoint=localhost:9000", "its endpoint must be https://HOST:PORT"),
        ("s3://bucket?secret=hidden", "parameter 'secret' is none of endpoint, region"),
    ],
)
async def test_a_url_that_names_no_store_is_refused_with_what_is_wrong(url, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        await open_objects(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.servers
async def test_wrong_keys_are_refused_at_the_start(s3):
    bucket = s3.create_bucket()
    wrong_secret = s3.url(bucket, secret_key="wrong-key-0815")
    wrong_name = s3.url(bucket).replace(s3.access_key, "nobody-0815")
    for url in (wrong_secret, wrong_name):
        with pytest.raises(ValueError, match="does not accept the keys") as refused:
            await open_objects(url)
        assert "0815" not in str(refused.value)


@pytest.mark.servers
async def test_a_bucket_that_is_not_there_is_refused_at_the_start_and_when_it_vanishes_later(s3):
    with pytest.raises(ValueError, match="no such bucket"):
        await open_objects(s3.url("not-made"))
    bucket = s3.create_bucket()
    objects = await open_objects(s3.url(bucket))
    shutil.rmtree(s3.buckets / bucket)
    for using in (objects.check(), objects.put("a", io.BytesIO(b"x")), content(objects, "a"), objects.delete("a")):
        with pytest.raises(ObjectStoreRefused) as refused:
            await using
        assert refused.value.reason == "OBJECT_STORE_REFUSED"


@pytest.mark.servers
async def test_a_store_that_is_away_is_told_in_time_and_used_again_when_it_is_back(s3):
    objects = await open_objects(s3.url(s3.create_bucket()))
    await objects.put("files/acme/before", io.BytesIO(b"before"))
    await asyncio.to_thread(s3.stop, crash=True)
    async with asyncio.timeout(30):
        for using in (
            objects.check(),
            objects.put("files/acme/one", io.BytesIO(b"x")),
            content(objects, "files/acme/before"),
            objects.delete("files/acme/before"),
        ):
            with pytest.raises(ObjectStoreUnavailable) as away:
                await using
            assert away.value.retry_after == 5
        # Nor does it keep the service from starting.
        later = await open_objects(s3.url("not-looked-at"))
    await asyncio.to_thread(s3.start)
    await objects.check()
    assert await content(objects, "files/acme/before") == b"before"
    with pytest.raises(ObjectStoreRefused):
        await later.check()


@pytest.mark.servers
async def test_a_download_goes_on_where_the_killed_server_broke_it_off(s3):
    objects = await open_objects(s3.url(s3.create_bucket()))
    data = os.urandom(48 * MIB)
    await objects.put("files/acme/one", io.BytesIO(data))
    parts: list[bytes] = []
    reading = objects.read("files/acme/one")
    parts.append(await anext(reading))
    await asyncio.to_thread(s3.stop, crash=True)
    await asyncio.to_thread(s3.start)
    parts += [part async for part in reading]
    assert b"".join(parts) == data


@pytest.mark.servers
async def test_an_upload_that_meets_a_restart_of_the_server_is_whole_or_told(s3):
    objects = await open_objects(s3.url(s3.create_bucket()))
    data = os.urandom(48 * MIB)
    putting = asyncio.create_task(objects.put("files/acme/one", io.BytesIO(data)))
    await asyncio.sleep(0)
    await asyncio.to_thread(s3.stop, crash=True)
    await asyncio.to_thread(s3.start)
    try:
        await putting
    except ObjectStoreUnavailable:
        with pytest.raises(ObjectNotFound):
            await content(objects, "files/acme/one")
        await objects.put("files/acme/one", io.BytesIO(data))
    assert await content(objects, "files/acme/one") == data
