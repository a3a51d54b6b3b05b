"""A restore wants a Weaviate without passages of that name: what others keep there is nobody's business."""

import httpx
from slipway_cli.checks.vectors import holds_passages
from slipway_testkit.servers.weaviate import WeaviateServer


async def test_collections_of_that_name_are_found_and_those_of_others_are_not(weaviate_server: WeaviateServer) -> None:
    url = weaviate_server.new_url()
    name = url.rpartition("=")[2]
    headers = {"authorization": f"Bearer {weaviate_server.key}"}
    address = f"http://127.0.0.1:{weaviate_server.port}/v1"
    async with httpx.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=30) as web:

        async def make(collection: str) -> None:
            (await web.post("/schema", json={"class": collection, "vectorizer": "none"})).raise_for_status()

        assert not await holds_passages(url)
        await make(f"{name}Others384")
        assert not await holds_passages(url)
        await make(f"{name}384_v1_0a1b2c3d")
        assert await holds_passages(url)
        for collection in (f"{name}Others384", f"{name}384_v1_0a1b2c3d"):
            (await web.delete(f"/schema/{collection}")).raise_for_status()
