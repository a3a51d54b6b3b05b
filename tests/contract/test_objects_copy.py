"""All objects of a store, copied to a folder and back, as backups do: the same over a folder and over S3."""

import os
import subprocess
import sys
from pathlib import Path

import obstore
import pytest
from slipway_memory.object_store import open_store
from slipway_memory.objects_copy import batches
from slipway_testkit.servers.versitygw import S3Server

CONTENTS = {"documents/acme/d1": os.urandom(3_000_000), "documents/acme/d2": b"", "files/globex/f1": b"a file"}


@pytest.fixture(params=["folder", pytest.param("s3_server", marks=pytest.mark.servers)])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two empty stores."""
    if request.param == "folder":
        return (tmp_path / "first").as_uri(), (tmp_path / "second").as_uri()
    server: S3Server = request.getfixturevalue("s3_server")
    return server.url(server.create_bucket()), server.url(server.create_bucket())


def copied(command: str, store: str, folder: Path) -> str:
    """What the command printed; a process, for it must also end well."""
    done = subprocess.run(
        [sys.executable, "-m", "slipway_memory.objects_copy", command, str(folder)],
        env={**os.environ, "SLIPWAY_MEMORY_OBJECTS_URL": store},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def test_objects_are_saved_once_and_come_back_as_they_were(stores: tuple[str, str], tmp_path: Path) -> None:
    first, second = stores
    folder = tmp_path / "saved"
    assert copied("count", first, folder) == "0"
    source = open_store(first)
    *before, late = CONTENTS
    for key in before:
        obstore.put(source, key, CONTENTS[key])
    assert copied("save", first, folder) == "2"
    obstore.put(source, late, CONTENTS[late])
    assert copied("save", first, folder) == "1"
    assert copied("count", first, folder) == "1"
    assert copied("load", second, folder) == "3"
    target = open_store(second)
    assert {key: bytes(obstore.get(target, key).bytes()) for key in CONTENTS} == CONTENTS
    obstore.put(target, "files/globex/other", b"of somebody else")
    assert copied("remove", second, folder) == "3"
    assert [key for keys in batches(target) for key in keys] == ["files/globex/other"]
