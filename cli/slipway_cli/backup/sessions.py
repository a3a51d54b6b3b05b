"""Conversations: they are in Redis alone, under `slipway:memory:…`: hashes, lists and strings with a time to live.

A line of the file is what belongs together: `[[key, type, milliseconds to live or -1, value], …]`; all bytes in Base64.
"""

import base64
import json
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from slipway_cli.backup.refusal import BackupRefusedError

_PATTERN = "slipway:memory:*"
_SECONDS = 10.0
_BATCH = 500
_KINDS = ("hash", "list", "string")
# Of the store, not of the disk that the file is on.
_AWAY = (RedisError, ConnectionError, TimeoutError)


def connect(url: str) -> Redis:
    """A client whose values are bytes."""
    return Redis.from_url(url, socket_connect_timeout=_SECONDS, socket_timeout=_SECONDS)


async def save(client: Redis, file: Path) -> int:
    """Writes all conversations; answers with their number. Raises BackupRefusedError."""
    written = 0
    try:
        groups: dict[bytes, dict[bytes, str]] = {}
        async for key in client.scan_iter(match=_PATTERN, count=_BATCH):
            groups.setdefault(_session(key), {})[key] = ""
        with file.open("w") as output:
            for keys in groups.values():
                if line := await _read(client, keys):
                    output.write(json.dumps(line) + "\n")
                    written += any(kind == "hash" for _, kind, _, _ in line)
    except _AWAY as error:
        raise BackupRefusedError(f"the session store does not answer ({error}): start it, then back up again") from None
    return written


async def load(client: Redis, file: Path) -> None:
    """Puts conversations back, with the time to live that they had. Raises BackupRefusedError."""
    try:
        with file.open() as lines:
            for line in lines:
                await _put(client, json.loads(line))
    except _AWAY as error:
        raise BackupRefusedError(f"the session store took no conversations ({error}): look at its log") from None


async def remove(client: Redis, file: Path) -> None:
    """Takes away what `load` put. Raises BackupRefusedError."""
    try:
        with file.open() as lines:
            for line in lines:
                await client.delete(*(base64.b64decode(key) for key, *_ in json.loads(line)))
    except _AWAY as error:
        raise BackupRefusedError(f"the session store does not answer ({error})") from None


async def is_empty(client: Redis) -> bool:
    """Has no conversation. Raises BackupRefusedError."""
    try:
        async for _ in client.scan_iter(match=_PATTERN, count=_BATCH):
            return False
    except _AWAY as error:
        raise BackupRefusedError(f"the session store can't be reached ({error}): correct the key `redis`") from None
    return True


async def _put(client: Redis, group: list[tuple[str, str, int, Any]]) -> None:
    # One transaction for what belongs together.
    async with client.pipeline(transaction=True) as pipeline:
        for key, kind, ttl, value in group:
            _write(pipeline, base64.b64decode(key), kind, value)
            if ttl >= 0:
                pipeline.pexpire(base64.b64decode(key), max(ttl, 1))
        await pipeline.execute()


def _session(key: bytes) -> bytes:
    """What keys of one conversation have in common: all up to the brace."""
    before, brace, after = key.partition(b"{")
    return before + after.partition(b"}")[0] if brace else key


async def _read(client: Redis, keys: dict[bytes, str]) -> list[tuple[str, str, int, Any]]:
    async with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.type(key)
        kinds = [kind.decode() for kind in await pipeline.execute()]
    known = [(key, kind) for key, kind in zip(keys, kinds, strict=True) if kind in _KINDS]
    async with client.pipeline(transaction=True) as pipeline:
        for key, kind in known:
            pipeline.pttl(key)
            match kind:
                case "hash":
                    pipeline.hgetall(key)
                case "list":
                    pipeline.lrange(key, 0, -1)
                case _:
                    pipeline.get(key)
        answers = await pipeline.execute() if known else []
    found = zip(known, answers[::2], answers[1::2], strict=True)
    # -2: it ended in between.
    return [(_text(key), kind, ttl, _value(value)) for (key, kind), ttl, value in found if ttl != -2]


def _value(value: Any) -> Any:
    match value:
        case dict():
            pairs = cast("dict[bytes, bytes]", value).items()
            return [[_text(name), _text(each)] for name, each in pairs]
        case list():
            return [_text(each) for each in cast("list[bytes]", value)]
        case _:
            return _text(value)


def _write(pipeline: Any, key: bytes, kind: str, value: Any) -> None:
    match kind:
        case "hash":
            pipeline.hset(key, mapping={base64.b64decode(n): base64.b64decode(v) for n, v in value})
        case "list":
            pipeline.rpush(key, *(base64.b64decode(each) for each in value))
        case _:
            pipeline.set(key, base64.b64decode(value))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
