"""Wrong settings end the process with one sentence that names the variable."""

from __future__ import annotations

import os

import pytest

GOOD = {
    "database_url": "postgresql://localhost/x",
    "redis_url": "redis://localhost",
    "bus_url": "redis://localhost",
    "caller_jwks_file": "/nowhere/jwks.json",
    "identity_target": "localhost:1",
    "router_target": "localhost:1",
    "service_secret": "s",
    "policy_dir": "/nowhere",
    "data_key": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
    "objects_url": "file:///tmp/x",
}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"router_target": None}, "SLIPWAY_MEMORY_ROUTER_TARGET is not set"),
        ({"objects_url": "ftp://x"}, "SLIPWAY_MEMORY_OBJECTS_URL: must be file:///folder or s3://bucket"),
        ({"vectors_url": "weaviate://key@h:1"}, "SLIPWAY_MEMORY_VECTORS_URL must name both ports"),
        ({"indexing_lease": "10", "embedding_timeout": "20"}, "SLIPWAY_MEMORY_EMBEDDING_TIMEOUT must be less than"),
    ],
    ids=["missing", "wrong URL", "wrong index", "lease"],
)
def test_a_wrong_setting_is_named(warm, wrong, sentence):
    values = {name: value for name, value in {**GOOD, **wrong}.items() if value is not None}
    environment = {f"SLIPWAY_MEMORY_{name.upper()}": value for name, value in values.items()}
    ended = warm("slipway_memory.main").run(environment={"PATH": os.environ["PATH"], **environment})
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "localhost" not in ended.stderr
