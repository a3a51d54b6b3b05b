"""What is done to Redis, Weaviate and the object store."""

import time
from typing import cast

import httpx
from redis import Redis
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.servers.weaviate import WeaviateServer

from fault_testing.outages import Outages

_SECONDS = 5


def flush_redis(outages: Outages) -> None:
    """Empties Redis, again and again, and takes its scripts."""
    with Redis.from_url(_redis(outages).url) as client:
        for _ in range(2 * _SECONDS):
            client.flushall()
            client.script_flush()
            time.sleep(0.5)


def fill_redis(outages: Outages) -> None:
    """Leaves Redis no memory for a while: it answers, and takes nothing."""
    try:
        _redis(outages).refuse_writes()
        time.sleep(_SECONDS)
    finally:
        _redis(outages).take_writes()


def make_redis_a_replica(outages: Outages) -> None:
    """Makes Redis the replica of one that is not there, as a failover that went wrong does: it answers READONLY."""
    with Redis.from_url(_redis(outages).url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            time.sleep(_SECONDS)
        finally:
            client.replicaof("NO", "ONE")


def restart_redis_empty(outages: Outages) -> None:
    """Ends Redis and starts one that knows nothing."""
    redis = _redis(outages)
    redis.stop(crash=True)
    for kept in ("appendonlydir", "appendonly.aof"):
        for file in sorted(redis.socket.parent.glob(f"{kept}/*")) or [redis.socket.parent / kept]:
            file.unlink(missing_ok=True)
    redis.start()


def restart_weaviate(outages: Outages) -> None:
    """Kills Weaviate in the middle of what it is taking, twice."""
    for _ in range(2):
        with outages.of("weaviate"):
            time.sleep(1)


def make_index_read_only(outages: Outages) -> None:
    """Weaviate takes no writes, as it does when its disk is full."""
    with _weaviate(outages) as web:
        changed = [
            f"/v1/schema/{name}/shards/{shard['name']}"
            for name in _classes(outages, web)
            for shard in web.get(f"/v1/schema/{name}/shards").raise_for_status().json()
        ]
        for place in changed:
            web.put(place, json={"status": "READONLY"}).raise_for_status()
        try:
            time.sleep(_SECONDS)
        finally:
            for place in changed:
                web.put(place, json={"status": "READY"}).raise_for_status()


def drop_index(outages: Outages) -> None:
    """Deletes the collections of the index, with all passages."""
    with _weaviate(outages) as web:
        for name in _classes(outages, web):
            web.delete(f"/v1/schema/{name}").raise_for_status()


def take_the_bucket(outages: Outages) -> None:
    """The bucket is gone, and comes back as it was."""
    bucket = outages.bucket
    away = bucket.with_name(f"{bucket.name}-away")
    bucket.rename(away)
    try:
        time.sleep(_SECONDS)
    finally:
        away.rename(bucket)


def _redis(outages: Outages) -> RedisServer:
    return cast(RedisServer, outages.servers["redis"])


def _weaviate(outages: Outages) -> httpx.Client:
    server = cast(WeaviateServer, outages.servers["weaviate"])
    headers = {"authorization": f"Bearer {server.key}"}
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers, timeout=60, trust_env=False)


def _classes(outages: Outages, web: httpx.Client) -> list[str]:
    """Names of the collections that are this stack's."""
    known = web.get("/v1/schema").raise_for_status().json()["classes"]
    return [one["class"] for one in known if one["class"].startswith(outages.collection)]
