"""A Redis or Valkey, and a RabbitMQ; nothing is written."""

import asyncio
import logging

import aio_pika
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from slipway_cli.checks.finding import Finding, dotted, least

# The library's own lines about a connection that fails: it is told as a finding.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

_SECONDS = 10.0
_REDIS = (7, 0)
# Quorum queues with a delivery limit and dead letters as the bus uses them.
_RABBITMQ = (3, 10)


async def check_redis(key: str, url: str, place: str) -> list[Finding]:
    """Reachable, with the right password, new enough, and keeping what it is given.

    `key` is that of the servers' file.
    """
    client = Redis.from_url(url, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS, retry=None)
    try:
        # Without arguments: Valkey 7's answer to `INFO server` is the same, older ones' is not.
        info = await client.info()
    except (AuthenticationError, ResponseError) as error:
        return [Finding("fail", key, f"{place} refuses the user or the password ({error})", f"correct the key `{key}`")]
    except (RedisError, OSError, TimeoutError) as error:
        reason = str(error) or f"no answer in {_SECONDS:g} s"
        return [Finding("fail", key, f"{place} cannot be reached ({reason})", f"start it, or correct the key `{key}`")]
    finally:
        await client.aclose()
    version = str(info.get("valkey_version") or info.get("redis_version", ""))
    kind = "Valkey" if "valkey_version" in info else "Redis"
    if not least(version, _REDIS):
        return [Finding("fail", key, f"{place} is {kind} {version}", f"use version {dotted(_REDIS)} or later")]
    if info.get("role") == "slave":
        return [
            Finding("fail", key, f"{place} is a replica and takes no writes", f"name its primary in the key `{key}`")
        ]
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        return [
            Finding(
                "warn",
                key,
                f"{kind} {version} at {place} drops data when its memory is full (maxmemory-policy {policy})",
                "set maxmemory-policy noeviction: sessions, limits and messages are there",
            )
        ]
    return [Finding("ok", key, f"{kind} {version} at {place}")]


def _no_connection(error: BaseException, place: str) -> Finding:
    reason = str(error) or f"no answer in {_SECONDS:g} s"
    # The library has no class of its own for each; the protocol's names stand in the text.
    if "ACCESS_REFUSED" in reason:
        return Finding("fail", "bus", f"{place} refuses the user or the password", "correct them in the key `bus`")
    # After the sign-in only the opening of the virtual host is left.
    if "Connection.OpenOk" in reason or "NOT_ALLOWED" in reason:
        return Finding(
            "fail", "bus", f"{place} refuses the virtual host", "correct the end of the URL in the key `bus`"
        )
    return Finding("fail", "bus", f"{place} cannot be reached ({reason})", "start it, or correct the key `bus`")


async def check_rabbitmq(url: str, place: str) -> list[Finding]:
    """Reachable, with the right password and virtual host, and new enough."""
    try:
        connection = await aio_pika.connect(url, timeout=_SECONDS)
    except (aio_pika.exceptions.AMQPError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        return [_no_connection(error, place)]
    try:
        transport = connection.transport
        properties = transport.connection.server_properties if transport is not None else {}
        version = str(properties.get("version", ""))
    finally:
        await connection.close()
    if not least(version, _RABBITMQ):
        return [Finding("fail", "bus", f"{place} is RabbitMQ {version}", f"use version {dotted(_RABBITMQ)} or later")]
    return [Finding("ok", "bus", f"RabbitMQ {version} at {place}")]
