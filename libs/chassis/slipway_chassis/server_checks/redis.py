"""A Redis or Valkey: reachable, with user and password, new enough, taking writes, and keeping what it is given."""

import asyncio
from typing import Any, cast
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from slipway_chassis.server_checks import ServerAway, ServerRefuses
from slipway_chassis.server_checks.reasons import ANSWER_SECONDS, away, place, refuse_unreadable_files, tls_refusal

REDIS_LEAST = (7, 0)

_PORT = 6379
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
# Of what is used: each of another category of permissions, and none leaves anything. The key is not there.
_KEY = "slipway:start"
_NEEDED: tuple[tuple[Any, ...], ...] = (
    ("DEL", _KEY),
    ("XTRIM", _KEY, "MAXLEN", 0),
    ("EVAL", "return 1", 0),
    ("PUBLISH", _KEY, ""),
)


async def check_redis(url: str, *, lasting: bool) -> list[str]:
    """Ask the server; `lasting`: what is in it must outlive it. See the package."""
    refuse_unreadable_files(url, _FILES)
    try:
        client = Redis.from_url(url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS, retry=None)
    except (ValueError, TypeError) as error:
        raise ServerRefuses(f"is no URL of Redis ({_without(url, str(error))}): correct it") from None
    where = place(url, _PORT)
    try:
        return await _look(client, where, lasting=lasting)
    except TypeError as error:
        # Parameters that the client does not know are found when it connects.
        raise ServerRefuses(f"has a parameter that Redis' client does not know ({error}): take it away") from None
    except (RedisError, OSError, TimeoutError) as error:
        if url.startswith("rediss:") and await _answers_plainly(url):
            raise ServerRefuses(
                "it demands TLS, which the server does not have: turn it on there, or write redis:// for rediss://"
            ) from None
        raise _told(error, where) from None
    finally:
        await client.aclose()


def _without(url: str, said: str) -> str:
    """The library's words, without a password that they may quote."""
    password = urlsplit(url).password
    return said.replace(password, "***") if password else said


def _told(error: Exception, where: str) -> ServerRefuses | ServerAway:
    if refusal := tls_refusal(error, authority="ssl_ca_certs", plain="write redis:// for rediss://"):
        return ServerRefuses(refusal)
    match error:
        case BusyLoadingError():
            return ServerAway(f"the Redis at {where} is loading its data: wait")
        case NoPermissionError():
            return ServerRefuses(f"its user lacks a permission ({error}): `ACL SETUSER` gives it ~slipway:* &* +@all")
        case AuthenticationError():
            return ServerRefuses(f"{where} refuses the user or the password: correct them")
        case InvalidResponse():
            return ServerRefuses(f"what answers at {where} is no Redis: correct host and port")
        case ResponseError() if str(error).startswith(("DB index", "SELECT is not")):
            return ServerRefuses(f"{where} has no such database ({error}): correct the number at the end")
        case ResponseError() if str(error).startswith(("MISCONF", "OOM", "CLUSTERDOWN", "NOREPLICAS")):
            return ServerAway(f"the Redis at {where} takes no writes now ({error}): see to it there")
        case ResponseError():
            return ServerRefuses(f"{where} refuses the connection ({error}): see to it there")
        case _:
            return ServerAway(away(error, "Redis", where))


async def _look(client: "Redis", where: str, *, lasting: bool) -> list[str]:
    commands = cast(Any, client)
    try:
        info: dict[str, Any] = await commands.info()
    except NoPermissionError:
        # Not needed in operation: who may not ask is believed.
        info = {}
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    if version and tuple(int(part) for part in version.split(".")[:2]) < REDIS_LEAST:
        raise ServerRefuses(f"{where} is Redis {version}: use {'.'.join(map(str, REDIS_LEAST))} or later, or Valkey")
    if info.get("role") == "slave":
        raise ServerRefuses(f"{where} is a replica and takes no writes: name its primary")
    for command in _NEEDED:
        await commands.execute_command(*command)
    doubts: list[str] = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        doubts.append(f"{where} drops data when its memory is full ({policy}): set maxmemory-policy noeviction")
    if lasting and info and not info.get("aof_enabled") and not await _saves(commands):
        doubts.append(f"{where} keeps nothing over a restart: set appendonly yes")
    return doubts


async def _saves(commands: Any) -> bool:
    try:
        return bool((await commands.config_get("save")).get("save"))
    except RedisError:
        return True


async def _answers_plainly(url: str) -> bool:
    """Does a Redis without TLS listen there? It waits for the end of what TLS says first."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or _PORT)
            writer.write(b"PING\r\n")
            answer = await reader.read(1)
            writer.close()
    except (OSError, TimeoutError):
        return False
    return answer in (b"+", b"-")
