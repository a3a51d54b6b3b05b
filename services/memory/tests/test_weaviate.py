"""The service over Weaviate: what callers and operators see while it is there, away and back."""

from __future__ import annotations

import asyncio

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
