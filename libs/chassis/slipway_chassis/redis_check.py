"""Readiness of a Redis or Valkey."""

from typing import Any

_SECONDS = 60  # for which the key that is written stays


async def check_takes_writes(redis: Any, key: str) -> None:
    """One round trip. Raises RedisError when it is away, or answers and takes no writes: its memory is full, or it was
    made a replica."""
    await redis.set(key, b"", ex=_SECONDS)
