"""Sessions in Redis or Valkey: one hash and one list a session, changed by scripts so that a change is whole.

Keys are `slipway:memory:<tenant>:{<session id>}…`; the braces keep a session's keys on one node of a cluster.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, cast
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError
from slipway_chassis.idempotency import IdempotencyKeyReused

from slipway_memory.errors import SessionFull, SessionNotFound, SessionStoreUnavailable
from slipway_memory.sessions import NewMessage, Session, SessionLimits, SessionMessage

# How long a repeated CreateSession is recognised, in seconds.
_REQUEST_TTL = 86400


def _script(name: str) -> str:
    return files("slipway_memory").joinpath("lua", f"{name}.lua").read_text()


@asynccontextmanager
async def _available() -> AsyncGenerator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise SessionStoreUnavailable("the session store does not answer", retry_after=1) from error


class RedisSessionStore:
    """SessionStore over one Redis, with its clock as the only one."""

    def __init__(self, client: Redis) -> None:
        """`client` decodes nothing: values are bytes."""
        self._client = client
        self._create = client.register_script(_script("create_session"))
        self._use = client.register_script(_script("use_session"))
        self._append = client.register_script(_script("append_messages"))
        self._delete = client.register_script(_script("delete_session"))

    async def create(
        self,
        tenant: str,
        owner: str,
        session_id: str,
        *,
        labels: Mapping[str, str],
        ttl: int,
        request_id: str,
        fingerprint: str,
    ) -> Session:
        """See SessionStore."""
        if request_id:
            session_id = await self._first(tenant, owner, session_id, request_id, fingerprint)
        key = _key(tenant, session_id)
        async with _available():
            fields = await self._create(keys=[key], args=[owner, json.dumps(dict(labels)), ttl])
        return _session(session_id, fields)

    async def _first(self, tenant: str, owner: str, session_id: str, request_id: str, fingerprint: str) -> str:
        """The session id that the request id stands for, which is `session_id` when it is new."""
        name = hashlib.sha256(json.dumps([owner, request_id]).encode()).hexdigest()
        key = f"{_prefix(tenant)}request:{name}"
        async with _available():
            # In one command: between two the key may be gone.
            stored = await self._client.set(key, f"{session_id} {fingerprint}", nx=True, get=True, ex=_REQUEST_TTL)
        if stored is None:
            return session_id
        first, _, said = cast("bytes", stored).decode().partition(" ")
        if said != fingerprint:
            raise IdempotencyKeyReused("request_id was used before with another request", field="request_id")
        return first

    async def get(self, tenant: str, owner: str, session_id: str) -> Session | None:
        """See SessionStore."""
        async with _available():
            fields = await self._use(keys=[_key(tenant, session_id), _messages(tenant, session_id)], args=[owner, 0, 0])
        return _session(session_id, fields[0]) if fields else None

    async def append(
        self,
        tenant: str,
        owner: str,
        session_id: str,
        messages: Sequence[NewMessage],
        *,
        limits: SessionLimits,
        request_id: str,
        fingerprint: str,
    ) -> Session:
        """See SessionStore."""
        lines = [json.dumps([message.role, message.content], ensure_ascii=False) for message in messages]
        async with _available():
            answer = await self._append(
                keys=[_key(tenant, session_id), _messages(tenant, session_id)],
                args=[owner, limits.messages, limits.bytes, request_id, fingerprint, *lines],
            )
        match answer[0].decode():
            case "missing":
                raise SessionNotFound(f"there is no session {session_id}", field="session_id")
            case "full":
                raise SessionFull(
                    f"a session holds at most {limits.messages} messages and {limits.bytes} bytes; start a new one"
                )
            case "reused":
                raise IdempotencyKeyReused("request_id was used before with another request", field="request_id")
            case _:
                return _session(session_id, answer[1])

    async def messages(
        self, tenant: str, owner: str, session_id: str, *, after: int, limit: int
    ) -> list[SessionMessage] | None:
        """See SessionStore."""
        async with _available():
            answer = await self._use(
                keys=[_key(tenant, session_id), _messages(tenant, session_id)], args=[owner, after, limit]
            )
        if not answer:
            return None
        return [_message(seq, line) for seq, line in enumerate(answer[1], start=after + 1)]

    async def delete(self, tenant: str, owner: str, session_id: str) -> bool:
        """See SessionStore."""
        async with _available():
            keys = [_key(tenant, session_id), _messages(tenant, session_id)]
            return bool(await self._delete(keys=keys, args=[owner]))


def _prefix(tenant: str) -> str:
    return f"slipway:memory:{quote(tenant, safe='')}:"


def _key(tenant: str, session_id: str) -> str:
    return f"{_prefix(tenant)}{{{session_id}}}"


def _messages(tenant: str, session_id: str) -> str:
    return f"{_key(tenant, session_id)}:messages"


def _time(milliseconds: bytes) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(milliseconds))


def _session(session_id: str, fields: Sequence[bytes]) -> Session:
    owner, labels, count, created, expires = fields
    return Session(
        session_id,
        owner.decode(),
        cast("dict[str, str]", json.loads(labels)),
        int(count),
        _time(created),
        _time(expires),
    )


def _message(seq: int, line: bytes) -> SessionMessage:
    time, _, said = line.partition(b" ")
    role, content = cast("tuple[Any, Any]", json.loads(said))
    return SessionMessage(seq, role, content, _time(time))
