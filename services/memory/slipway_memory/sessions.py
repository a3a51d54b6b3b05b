"""Sessions: conversations that belong to one subject and end when they are not used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.ids import is_id, new_id
from slipway_chassis.jcs import digest
from slipway_chassis.paging import decode_token, encode_token, page_size
from slipway_chassis.policy import PolicyEngine

from slipway_memory.access import session_resource
from slipway_memory.errors import MessageTooLarge, SessionNotFound
from slipway_memory.knowledge import check_labels

DEFAULT_TTL = 86400
LONGEST_TTL = 90 * 86400
_LIST = "ListSessionMessages"
_ROLES = ("user", "assistant", "system", "tool")
_MOST_APPENDED = 100


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation. `expire_time` moves with every use."""

    session_id: str
    owner: str
    labels: Mapping[str, str]
    message_count: int
    create_time: datetime
    expire_time: datetime


@dataclass(frozen=True, slots=True)
class SessionMessage:
    """One turn; `seq` counts from 1 without a gap."""

    seq: int
    role: str
    content: str
    time: datetime


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A turn to append."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Most characters of a message; most messages and bytes of a session."""

    message_characters: int
    messages: int
    bytes: int


class SessionStore(Protocol):
    """Where sessions live. Every method raises SessionStoreUnavailable; those with a session id answer None (or raise
    SessionNotFound where they change something) for one that is not the owner's or has ended.
    """

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
        """Creates a session, or answers the one that `request_id` created. `ttl` in seconds since the last use."""
        ...

    async def get(self, tenant: str, owner: str, session_id: str) -> Session | None:
        """A session; reading it is a use."""
        ...

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
        """Appends all messages or none. Raises SessionFull."""
        ...

    async def messages(
        self, tenant: str, owner: str, session_id: str, *, after: int, limit: int
    ) -> list[SessionMessage] | None:
        """Messages from the one after `after`, oldest first."""
        ...

    async def delete(self, tenant: str, owner: str, session_id: str) -> bool:
        """Deletes a session; False when there is none."""
        ...


class Sessions:
    """Keeps sessions for a caller, who must be their owner."""

    def __init__(self, store: SessionStore, policy: PolicyEngine, limits: SessionLimits) -> None:
        self._store = store
        self._policy = policy
        self._limits = limits

    async def create(self, caller: Caller, *, labels: Mapping[str, str], ttl: float | None, request_id: str) -> Session:
        """Starts a session. Raises InvalidArgument, PolicyDenied."""
        check_labels(labels, "labels", most=16)
        if ttl is not None and not 1 <= ttl <= LONGEST_TTL:
            raise InvalidArgument("1 second to 90 days", field="ttl")
        self._policy.authorize(caller, "UseSession", session_resource(caller.tenant, "new", caller.subject))
        return await self._store.create(
            caller.tenant,
            caller.subject,
            new_id("ses"),
            labels=labels,
            ttl=int(ttl or DEFAULT_TTL),
            request_id=request_id,
            fingerprint=digest([dict(labels), int(ttl or 0)]),
        )

    async def get(self, caller: Caller, session_id: str) -> Session:
        """A session of the caller. Raises SessionNotFound, PolicyDenied."""
        self._check(caller, session_id)
        session = await self._store.get(caller.tenant, caller.subject, session_id)
        if session is None:
            raise _not_found(session_id)
        return session

    async def append(self, caller: Caller, session_id: str, messages: Sequence[NewMessage], request_id: str) -> Session:
        """Appends messages, all or none. Raises InvalidArgument, MessageTooLarge, SessionFull, SessionNotFound."""
        self._check(caller, session_id)
        if not 1 <= len(messages) <= _MOST_APPENDED:
            raise InvalidArgument(f"1 to {_MOST_APPENDED} messages", field="messages")
        for position, message in enumerate(messages):
            if message.role not in _ROLES:
                raise InvalidArgument(f"one of {', '.join(_ROLES)}", field=f"messages[{position}].role")
            if len(message.content) > self._limits.message_characters:
                raise MessageTooLarge(
                    f"a message has at most {self._limits.message_characters} characters",
                    field=f"messages[{position}].content",
                )
        said = json.dumps([[message.role, message.content] for message in messages])
        return await self._store.append(
            caller.tenant,
            caller.subject,
            session_id,
            messages,
            limits=self._limits,
            request_id=request_id,
            fingerprint=digest(said),
        )

    async def messages(
        self, caller: Caller, session_id: str, *, size: int, token: str
    ) -> tuple[list[SessionMessage], str]:
        """A page of messages, oldest first, and the next page's token. Raises SessionNotFound."""
        self._check(caller, session_id)
        wanted = page_size(size, 50, 200)
        method = f"{_LIST}/{session_id}"
        position = decode_token(caller.tenant, method, token, (int,))
        after = max(int(position[0]), 0) if position else 0
        found = await self._store.messages(caller.tenant, caller.subject, session_id, after=after, limit=wanted + 1)
        if found is None:
            raise _not_found(session_id)
        page = found[:wanted]
        return page, encode_token(caller.tenant, method, page[-1].seq) if len(found) > wanted else ""

    async def delete(self, caller: Caller, session_id: str) -> None:
        """Deletes a session with its messages. Raises SessionNotFound."""
        self._check(caller, session_id)
        if not await self._store.delete(caller.tenant, caller.subject, session_id):
            raise _not_found(session_id)

    def _check(self, caller: Caller, session_id: str) -> None:
        """The store finds a caller's own sessions only; policy may take the right to use them away."""
        if not is_id("ses", session_id):
            raise _not_found(session_id)
        self._policy.authorize(caller, "UseSession", session_resource(caller.tenant, session_id, caller.subject))


def _not_found(session_id: str) -> SessionNotFound:
    return SessionNotFound(f"there is no session {session_id[:60]}", field="session_id")
