"""The service over Weaviate: what callers and operators see while it is there, away and back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import asyncpg
import httpx
import pytest
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import ErrorKind, RemoteError
from slipway_testkit.waiting import eventually


@pytest.mark.servers
async def test_a_weaviate_that_is_killed_is_named_and_what_was_put_meanwhile_is_found_afterwards(
    start_memory, new_database, new_client, router, weaviate_server
):
    memory = start_memory(new_database(), vectors_url=weaviate_server.new_url(), sweep_interval=0.3)
    alice = new_client(memory)
    await alice.collection()
    await alice.add("# Tariffs\nThe tariff is ten euro.", "before", filename="x.md")
    assert [one.document for one in await alice.search("tariff")] == ["before"]
    await asyncio.to_thread(weaviate_server.stop, crash=True)
    try:
        base = memory.metrics.removesuffix("/metrics")
        async with httpx.AsyncClient() as http:

            async def named() -> bool:
                return "weaviate" in (await http.get(f"{base}/readyz", timeout=20)).text

            await eventually(named, 30)
            assert (await http.get(f"{base}/livez")).status_code == 200
        with pytest.raises(RemoteError) as away:
            await alice.search("tariff")
        assert (away.value.kind, away.value.reason) == (ErrorKind.UNAVAILABLE, "VECTOR_STORE_UNAVAILABLE")
        await alice.put(b"# Tariffs\nA new tariff.", "meanwhile", filename="x.md")
        assert (await alice.document("meanwhile")).state == pb.DOCUMENT_STATE_INDEXING
    finally:
        await asyncio.to_thread(weaviate_server.start_if_stopped)
    await alice.ready("meanwhile", timeout=60)
    assert {one.document for one in await alice.search("tariff")} == {"before", "meanwhile"}


@pytest.mark.servers
async def test_a_wrong_key_ends_the_process_before_anything_is_written(
    database_url, valkey_url, weaviate_server, signing, policy_dir, tmp_path
):
    values = {
        "database_url": database_url,
        "redis_url": valkey_url,
        "bus_url": valkey_url,
        "caller_jwks_file": str(signing.jwks_file),
        "identity_target": "127.0.0.1:1",
        "router_target": "127.0.0.1:1",
        "service_secret": "memory-secret",
        "policy_dir": str(policy_dir),
        "data_key": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
        "objects_url": f"file://{tmp_path}/objects",
        "vectors_url": weaviate_server.url("Nobodys", key="hidden"),
    }
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "slipway_memory.main"],
        env={**os.environ, **{f"SLIPWAY_MEMORY_{name.upper()}": value for name, value in values.items()}},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert "SLIPWAY_MEMORY_VECTORS_URL: Weaviate does not accept the key" in ended.stderr
    assert "hidden" not in ended.stderr + ended.stdout
    database = await asyncpg.connect(database_url)
    try:
        assert await database.fetch("SELECT FROM pg_tables WHERE schemaname = 'public'") == []
    finally:
        await database.close()
