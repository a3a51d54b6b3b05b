"""With the real router, its catalogue and the local embedding model instead of the small one."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from slipway.effects.v1 import effects_pb2
from slipway.memory.v1 import memory_pb2 as pb

CATALOGUE = Path(__file__).parents[3] / "k8s" / "catalogue" / "models.yaml"


@pytest.fixture
def router_target(peers, signing, policy_dir, database_url, valkey_url, tmp_path, processes) -> str:
    """The router of this repository, over the repository's catalogue."""
    models = processes(
        "slipway_router.local_models.__main__",
        {"SLIPWAY_LOCAL_MODELS_LISTEN": "127.0.0.1:0", "SLIPWAY_LOCAL_MODELS_API_KEY": "local-key"},
        ready="local_models.ready",
    )
    secrets_file = tmp_path / "secrets.yaml"
    secrets_file.write_text(json.dumps({"local_models": "local-key"}))
    secrets_file.chmod(0o600)
    values = {
        "database_url": database_url,
        "redis_url": valkey_url,
        "bus_url": f"{valkey_url.rsplit('/', 1)[0]}/15",
        "caller_jwks_file": signing.jwks_file,
        "identity_target": peers[1],
        "service_secret": "router-secret",
        "policy_dir": policy_dir,
        "data_key": base64.b64encode(b"r" * 32).decode(),
        "catalogue_file": CATALOGUE,
        "secrets_file": secrets_file,
        "local_models_url": f"http://{models.ready['address']}/v1",
    }
    environment = {f"SLIPWAY_ROUTER_{name.upper()}": str(value) for name, value in values.items()}
    router = processes("slipway_router.main", environment, ready="service.ready")
    return f"127.0.0.1:{router.ready['grpc']}"


async def test_documents_are_embedded_and_found_through_the_router(
    router_target, start_memory, new_database, new_client
):
    alice = new_client(start_memory(new_database(), router_target=router_target))
    collection = await alice.collection(regions=["eu"])
    assert collection.embedding_model == "minilm-l6-v2"
    document = await alice.add(
        "# Returns\nGoods can be sent back within thirty days.\n\n# Repairs\nThe workshop mends flat tyres.",
        filename="handbook.md",
    )
    assert document.indexed_chunk_count == 2
    effect = effects_pb2.EffectKey(key="run_01jd0000000000000000000000/policy/1", epoch=1, attempt=1)
    request = pb.SearchCollectionRequest(
        collection="handbook", query="can I get a refund?", regions=["eu"], regions_demanded=True, effect=effect
    )
    answer = await alice.call(alice.knowledge.SearchCollection, request)
    assert list(answer.passages[0].headings) == ["Returns"]
    assert answer.record.event_id
