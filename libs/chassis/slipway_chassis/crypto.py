"""Encryption at rest under a key per subject, so that erasing a person is deleting one row.

A sealed text is ``version (1) ‖ key id (16) ‖ nonce (12) ‖ AES-256-GCM``; tenant, subject and key id are authenticated
with it. The subject's key lies in ``subject_key``, wrapped the same way under the service's data key. After an erasure
the key id of older texts matches no row: that is how they are known to be erased, also when the subject came back and
has a new key.

The data key is rotated while services run: several may be given, of which the first wraps and all unwrap. Subjects'
keys are few and small, so they are wrapped anew at once (`python -m slipway_chassis.rewrap`), and the texts never.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from slipway_chassis.data_key import parse_data_keys
from slipway_chassis.errors import Internal, NotFound
from slipway_chassis.postgres import transaction

_VERSION = b"\x01"
_ID_BYTES, _NONCE_BYTES, _KEY_BYTES = 16, 12, 32
_HEAD_BYTES = 1 + _ID_BYTES + _NONCE_BYTES
_CACHED_KEYS = 10_000
# Seconds for which another process may go on with a key that was erased. What it seals in that time is erased as well.
CACHE_SECONDS = 30.0


_REWRAPPED_AT_ONCE = 200
_PAGE = """
SELECT tenant, subject, key_id, wrapped_key FROM subject_key
WHERE (tenant, subject) > ($1, $2) ORDER BY tenant, subject LIMIT $3 FOR UPDATE
"""
_REWRAP = "UPDATE subject_key SET wrapped_key = $1 WHERE tenant = $2 AND subject = $3"


class SubjectErased(NotFound):
    """The subject's key is gone, and with it the text."""

    reason = "SUBJECT_ERASED"


class SealBroken(Internal):
    """The text was not sealed for this subject, or it is damaged, or the data key is another one."""


@dataclass(frozen=True, slots=True)
class _Key:
    id: bytes
    cipher: AESGCM
    context: bytes
    ends: float

    def seal(self, plaintext: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((_VERSION, self.id, nonce, self.cipher.encrypt(nonce, plaintext, self.context)))


class SubjectKeys:
    """Seals and opens texts of subjects. ``conn`` is a connection or a pool; a new key commits with its transaction."""

    def __init__(self, pool: asyncpg.Pool, data_key: str) -> None:
        """``data_key``: see `parse_data_keys`, which raises ValueError."""
        self._pool = pool
        self._wrapping, *self._retired = (AESGCM(raw) for raw in parse_data_keys(data_key))
        self._cache: OrderedDict[tuple[str, str], _Key] = OrderedDict()
        # Keys made here whose transaction may still roll back: key id and the transaction's id. To use one of them
        # after a rollback would seal texts that nobody can ever open.
        self._unconfirmed: dict[bytes, int] = {}

    async def encrypt(self, conn: Any, tenant: str, subject: str, plaintext: bytes) -> bytes:
        """Seal ``plaintext`` under the subject's key, which is made if there is none."""
        return (await self.sealer(conn, tenant, subject))(plaintext)

    async def sealer(self, conn: Any, tenant: str, subject: str) -> Callable[[bytes], bytes]:
        """What seals texts under the subject's key, which is made if there is none.

        For texts that are committed at once: a sealer that is kept knows nothing of an erasure.
        """
        key = self._cached(tenant, subject) or await self._fetch(conn, tenant, subject)
        return (key or await self._create(conn, tenant, subject)).seal

    async def decrypt(self, conn: Any, tenant: str, subject: str, sealed: bytes) -> bytes:
        """Open a sealed text. Raises SubjectErased if its key was erased, SealBroken if it is none of the subject's."""
        if len(sealed) <= _HEAD_BYTES or sealed[:1] != _VERSION:
            raise SealBroken("not a sealed text")
        key_id, nonce = sealed[1 : 1 + _ID_BYTES], sealed[1 + _ID_BYTES : _HEAD_BYTES]
        key = self._cached(tenant, subject)
        if key is None or key.id != key_id:
            key = await self._fetch(conn, tenant, subject)
        if key is None or key.id != key_id:
            raise SubjectErased("the subject was erased")
        try:
            return key.cipher.decrypt(nonce, sealed[_HEAD_BYTES:], key.context)
        except InvalidTag as error:
            raise SealBroken("the sealed text is damaged") from error

    async def erase(self, conn: Any, tenant: str, subject: str) -> bool:
        """Destroy the subject's key; True if there was one. Other processes forget it within CACHE_SECONDS."""
        self._cache.pop((tenant, subject), None)
        deleted = await conn.fetchval(
            "DELETE FROM subject_key WHERE tenant = $1 AND subject = $2 RETURNING true", tenant, subject
        )
        return deleted is not None

    async def rewrap(self) -> tuple[int, int]:
        """Wrap subjects' keys under the first data key; how many were not, and how many there are.

        Raises SealBroken at the first key that no data key opens; what was wrapped before stays so.
        """
        last, wrapped, seen = ("", ""), 0, 0
        while True:
            async with transaction(self._pool) as conn:
                rows = await conn.fetch(_PAGE, *last, _REWRAPPED_AT_ONCE)
                for row in rows:
                    if new := self._wrapped_anew(row):
                        wrapped += 1
                        await conn.execute(_REWRAP, new, row["tenant"], row["subject"])
            seen += len(rows)
            if not rows:
                return wrapped, seen
            last = rows[-1]["tenant"], rows[-1]["subject"]

    def _wrapped_anew(self, row: Any) -> bytes | None:
        wrapped = row["wrapped_key"]
        context = _context(row["tenant"], row["subject"], row["key_id"])
        nonce, sealed = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]
        try:
            self._wrapping.decrypt(nonce, sealed, context)
        except InvalidTag:
            nonce = os.urandom(_NONCE_BYTES)
            return nonce + self._wrapping.encrypt(nonce, self._open_wrapped(wrapped, context), context)
        return None

    def _cached(self, tenant: str, subject: str) -> _Key | None:
        key = self._cache.get((tenant, subject))
        return key if key is not None and key.ends > time.monotonic() else None

    async def _fetch(self, conn: Any, tenant: str, subject: str) -> _Key | None:
        row = await conn.fetchrow(
            "SELECT key_id, wrapped_key, pg_current_xact_id_if_assigned()::text AS xact"
            " FROM subject_key WHERE tenant = $1 AND subject = $2",
            tenant,
            subject,
        )
        if row is None:
            return None
        key = self._unwrap(tenant, subject, row["key_id"], row["wrapped_key"])
        made_in = self._unconfirmed.get(key.id)
        if made_in is None or row["xact"] is None or int(row["xact"]) != made_in:
            # Seen from outside of the transaction that made it: it has committed.
            self._unconfirmed.pop(key.id, None)
            self._keep(tenant, subject, key)
        return key

    async def _create(self, conn: Any, tenant: str, subject: str) -> _Key:
        key_id, raw, nonce = os.urandom(_ID_BYTES), os.urandom(_KEY_BYTES), os.urandom(_NONCE_BYTES)
        context = _context(tenant, subject, key_id)
        wrapped = nonce + self._wrapping.encrypt(nonce, raw, context)
        xact = await conn.fetchval(
            "INSERT INTO subject_key (tenant, subject, key_id, wrapped_key) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (tenant, subject) DO NOTHING RETURNING pg_current_xact_id()::text",
            tenant,
            subject,
            key_id,
            wrapped,
        )
        if xact is None:
            # Another transaction made one in between, and has committed: the insert waited for that.
            key = await self._fetch(conn, tenant, subject)
            if key is None:
                raise SubjectErased("the subject is being erased")
            return key
        self._unconfirmed[key_id] = int(xact)
        while len(self._unconfirmed) > _CACHED_KEYS:
            # Forgetting one early would be wrong only within its own transaction, and that is long over.
            del self._unconfirmed[next(iter(self._unconfirmed))]
        return _Key(key_id, AESGCM(raw), context, 0)

    def _unwrap(self, tenant: str, subject: str, key_id: bytes, wrapped: bytes) -> _Key:
        context = _context(tenant, subject, key_id)
        raw = self._open_wrapped(wrapped, context)
        return _Key(key_id, AESGCM(raw), context, time.monotonic() + CACHE_SECONDS)

    def _open_wrapped(self, wrapped: bytes, context: bytes) -> bytes:
        for wrapping in (self._wrapping, *self._retired):
            try:
                return wrapping.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], context)
            except InvalidTag:
                continue
        raise SealBroken("the subject's key does not open with this data key")

    def _keep(self, tenant: str, subject: str, key: _Key) -> None:
        self._cache[tenant, subject] = key
        self._cache.move_to_end((tenant, subject))
        if len(self._cache) > _CACHED_KEYS:
            self._cache.popitem(last=False)


def _context(tenant: str, subject: str, key_id: bytes) -> bytes:
    # Lengths keep ("a", "bc") and ("ab", "c") apart.
    parts = (tenant.encode(), subject.encode(), key_id)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
