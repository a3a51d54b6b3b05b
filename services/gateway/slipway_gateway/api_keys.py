"""API keys: credentials of service principals, for programs that cannot sign in at the identity provider."""

import hashlib
import re
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from slipway_chassis.caller import Caller
from slipway_chassis.errors import AlreadyExists, FieldViolation, InvalidArgument, NotFound, PermissionDenied
from slipway_chassis.ids import is_id, new_id
from slipway_chassis.policy import PolicyDecision, PolicyEngine, Resource

from slipway_gateway.directory import Subject
from slipway_gateway.oidc.compact import TokenInvalid
from slipway_gateway.principal import API_KEY_PREFIX, Principal

KEY_PREFIX: Final = "sk-slip-"
DEFAULT_LIFETIME: Final = timedelta(days=90)
MAX_LIFETIME: Final = timedelta(days=365)
ADMIN_ROLE: Final = "platform-admin"
# A revoked key is refused at once by the replica that revoked it, and by the others within this time.
CACHE_SECONDS: Final = 5.0
CACHE_ENTRIES: Final = 4096

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# 256 random bits in base64url, then their CRC-32: a mistyped or invented key is refused without a look-up.
_KEY = re.compile(rf"{KEY_PREFIX}([A-Za-z0-9_-]{{43}})([0-9a-f]{{8}})")


class ApiKeyNotFound(NotFound):
    """The tenant has no API key of that id."""

    reason = "API_KEY_NOT_FOUND"


class ApiKeyNameTaken(AlreadyExists):
    """Another person's keys have that name; a second owner would act as the same principal."""

    reason = "API_KEY_NAME_TAKEN"


class ApiKeyAlreadyIssued(AlreadyExists):
    """The idempotency key was used: the API key exists, and its secret cannot be shown again."""

    reason = "API_KEY_ALREADY_ISSUED"


class IdempotencyKeyReused(InvalidArgument):
    """The idempotency key was used with another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class KeysMakeNoKeys(PermissionDenied):
    """An API key asked for another API key."""

    reason = "API_KEY_MAKES_NO_KEYS"


class RoleNotGrantable(PermissionDenied):
    """The creator may not give that role to an API key."""

    reason = "ROLE_NOT_GRANTABLE"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is kept: never its secret, only the secret's digest."""

    key_id: str
    tenant: str
    name: str
    roles: tuple[str, ...]
    owner: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None

    @property
    def subject(self) -> str:
        """The service principal that a caller with this key is."""
        return API_KEY_PREFIX + self.name

    def is_active(self, now: datetime) -> bool:
        """True while the key opens the door."""
        return self.revoke_time is None and now < self.expire_time


class ApiKeyStore(Protocol):
    """Where keys are kept. Changes are recorded in the audit log, in the same transaction."""

    async def insert(
        self, key: ApiKey, digest: bytes, *, request_id: str, caller: Caller, policy: PolicyDecision
    ) -> None:
        """Adds a key. Raises ApiKeyNameTaken, ApiKeyAlreadyIssued, IdempotencyKeyReused."""
        ...

    async def find_by_digest(self, digest: bytes) -> ApiKey | None:
        """The key whose secret has that SHA-256 digest."""
        ...

    async def find(self, tenant: str, key_id: str) -> ApiKey | None:
        """The tenant's key of that id."""
        ...

    async def active(self, tenant: str, name: str) -> Sequence[ApiKey]:
        """The tenant's keys of that name that are neither revoked nor expired."""
        ...

    async def page(self, tenant: str, *, before: str, limit: int) -> Sequence[ApiKey]:
        """The tenant's keys, newest first, from before the id given (empty: the newest)."""
        ...

    async def revoke(self, key: ApiKey, *, caller: Caller, policy: PolicyDecision) -> None:
        """Marks the key as revoked; a second time changes nothing."""
        ...


class ApiKeys:
    """Creates, lists, revokes and recognises API keys."""

    def __init__(
        self,
        store: ApiKeyStore,
        policies: PolicyEngine,
        grantable_roles: Collection[str],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._policies = policies
        self._grantable = frozenset(grantable_roles)
        self._clock = clock
        self._recognised: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def create(
        self, caller: Caller, *, name: str, roles: Collection[str], lifetime: timedelta | None, request_id: str
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is not kept and cannot be shown again.

        Raises InvalidArgument, KeysMakeNoKeys, RoleNotGrantable, PermissionDenied (policy) and what ApiKeyStore.insert
        raises.
        """
        if caller.subject.startswith(API_KEY_PREFIX):
            # It would outlive its own expiry and revocation, and its offspring would have no person behind it.
            raise KeysMakeNoKeys("an API key makes no API keys: sign in to make one")
        policy = self._policies.authorize(caller, "ManageApiKey", _resource(caller.tenant, "new", caller.subject))
        self._check(caller, name, roles, lifetime or DEFAULT_LIFETIME)
        now = datetime.fromtimestamp(self._clock(), UTC)
        key = ApiKey(
            key_id=new_id("key"),
            tenant=caller.tenant,
            name=name,
            roles=tuple(sorted(set(roles))),
            owner=caller.person,
            create_time=now,
            expire_time=now + (lifetime or DEFAULT_LIFETIME),
        )
        secret = _new_secret()
        await self._store.insert(key, _digest(secret), request_id=request_id, caller=caller, policy=policy)
        return key, secret

    async def page(self, caller: Caller, *, before: str, limit: int) -> tuple[Sequence[ApiKey], str]:
        """Keys that the caller may manage, newest first, and the id to go on from (empty: no more)."""
        rows = await self._store.page(caller.tenant, before=before, limit=limit + 1)
        shown = [
            key
            for key in rows[:limit]
            if self._policies.decide(caller, "ManageApiKey", _resource(key.tenant, key.key_id, key.owner)).allowed
        ]
        return shown, rows[limit - 1].key_id if len(rows) > limit else ""

    async def revoke(self, caller: Caller, key_id: str) -> None:
        """Ends a key. Raises ApiKeyNotFound, PermissionDenied."""
        key = await self._store.find(caller.tenant, key_id) if is_id("key", key_id) else None
        if key is None:
            raise ApiKeyNotFound(f"there is no API key {key_id}")
        policy = self._policies.authorize(caller, "ManageApiKey", _resource(key.tenant, key.key_id, key.owner))
        await self._store.revoke(key, caller=caller, policy=policy)
        for digest, (_, principal) in list(self._recognised.items()):
            if principal.token_id == key_id:
                del self._recognised[digest]

    async def authenticate(self, secret: str) -> Principal:
        """The service principal of a key. Raises TokenInvalid for one that is unknown, expired or revoked."""
        match = _KEY.fullmatch(secret)
        if match is None or _checksum(match[1]) != match[2]:
            raise TokenInvalid("this is no API key")
        digest, now = _digest(secret), self._clock()
        recognised = self._recognised.get(digest)
        if recognised is not None and now < recognised[0]:
            return recognised[1]
        key = await self._store.find_by_digest(digest)
        if key is None or not key.is_active(datetime.fromtimestamp(now, UTC)):
            raise TokenInvalid("the API key is unknown, expired or revoked")
        principal = Principal(
            subject=key.subject,
            tenant=key.tenant,
            roles=frozenset(key.roles),
            groups=frozenset(),
            name=key.name,
            method="api_key",
            token_id=key.key_id,
            expires_at=key.expire_time,
            owner=key.owner,
        )
        self._recognised[digest] = (min(now + CACHE_SECONDS, key.expire_time.timestamp()), principal)
        while len(self._recognised) > CACHE_ENTRIES:
            self._recognised.popitem(last=False)
        return principal

    def _check(self, caller: Caller, name: str, roles: Collection[str], lifetime: timedelta) -> None:
        violations: list[FieldViolation] = []
        if _NAME.fullmatch(name) is None:
            violations.append(FieldViolation("name", "1 to 63 of lower-case letters, digits and inner `-`"))
        if not roles:
            violations.append(FieldViolation("roles", "at least one role"))
        if not timedelta(minutes=1) <= lifetime <= MAX_LIFETIME:
            violations.append(FieldViolation("expires_in_seconds", "60 (a minute) to 31536000 (365 days)"))
        if violations:
            raise InvalidArgument("the API key cannot be made as described", violations=violations)
        # A key is no second pair of eyes: roles that judge others' proposals are not in the grantable set.
        for role in sorted(roles):
            if role not in self._grantable or (role not in caller.roles and ADMIN_ROLE not in caller.roles):
                raise RoleNotGrantable(f"you may not give the role {role!r} to an API key", field="roles")


class ApiKeyDirectory:
    """The service principals of API keys, for the exchange of their runs' grants."""

    def __init__(self, store: ApiKeyStore) -> None:
        self._store = store

    async def find(self, tenant: str, subject: str) -> Subject | None:
        """As in Directory: a principal all of whose keys ended is disabled."""
        name = subject.removeprefix(API_KEY_PREFIX)
        keys = await self._store.active(tenant, name)
        if not keys:
            return None
        return Subject(name, frozenset(role for key in keys for role in key.roles), frozenset())

    async def has_role(self, role: str) -> bool:
        """Never: what roles there are is the identity provider's to say."""
        del role
        return False


def _resource(tenant: str, key_id: str, owner: str) -> Resource:
    return Resource("ApiKey", key_id, tenant, {"owner": owner})


def _new_secret() -> str:
    body = secrets.token_urlsafe(32)
    return f"{KEY_PREFIX}{body}{_checksum(body)}"


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode('ascii')):08x}"


def _digest(secret: str) -> bytes:
    # A plain hash is enough: 256 random bits cannot be guessed, unlike a password.
    return hashlib.sha256(secret.encode("ascii")).digest()
