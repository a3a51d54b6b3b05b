"""Internal caller tokens: EdDSA JWTs that the gateway signs and every service verifies.

Claims: iss, aud, sub, tenant, kind, roles, groups, jti, iat, nbf, exp; act, run_id, name and owner where they apply.
Header: ``alg`` EdDSA, ``kid``, ``typ`` slipway-caller+jwt, so that no other JWT of the same key can pass for one.
"""

import asyncio
import base64
import binascii
import json
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from grpc_health.v1 import health_pb2, health_pb2_grpc
from slipway.identity.v1 import identity_pb2, identity_pb2_grpc

from slipway_chassis.caller import Caller
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import SlipwayError, Unauthenticated
from slipway_chassis.logs import get_logger
from slipway_chassis.tls import ServiceTls
from slipway_chassis.tls_failures import tell_tls_failure

TOKEN_TYPE = "slipway-caller+jwt"  # noqa: S105
ISSUER = "slipway-gateway"
AUDIENCE = "slipway-internal"

_log = get_logger(__name__)
# Unpadded base64url only: PyJWT also takes padded signatures, which would give one token several spellings.
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LEEWAY = 5  # seconds that clocks of two machines may differ
_CHECK_EVERY = 5.0  # seconds between looks at the key file
_CACHED_TOKENS = 4096
_REQUIRED = ["iss", "aud", "sub", "exp", "nbf", "iat", "jti"]


class InvalidToken(Unauthenticated):
    """The caller token is missing, damaged, expired, or signed by an unknown key."""

    reason = "INVALID_TOKEN"


class CallerTokenVerifier:
    """Verifies caller tokens against a JWKS file that is read again when it changes."""

    def __init__(self, jwks_file: Path, *, issuer: str = ISSUER, audience: str = AUDIENCE) -> None:
        """Reads the keys; OSError or ValueError if there are none to read."""
        self._file = jwks_file
        self._issuer = issuer
        self._audience = audience
        self._keys: dict[str, Ed25519PublicKey] = {}
        # Verified tokens, for a caller makes many calls with one token. Whole tokens are the key, so any other spelling
        # or content misses; expiry is checked at every hit, and new keys empty it.
        self._verified: OrderedDict[str, Caller] = OrderedDict()
        self._stamp: tuple[int, int, int] | None = None
        self._checked = time.monotonic()
        self._load()

    def verify(self, token: str) -> Caller:
        """The caller that ``token`` names. Raises InvalidToken, always in the same words for whatever is wrong."""
        self._look_for_new_keys(_CHECK_EVERY)
        caller = self._verified.get(token)
        if caller is None:
            caller = self._decode(token)
            self._verified[token] = caller
            if len(self._verified) > _CACHED_TOKENS:
                self._verified.popitem(last=False)
        elif caller.expires_at.timestamp() + _LEEWAY <= time.time():
            del self._verified[token]
            raise InvalidToken("caller token is not valid")
        return caller

    def _decode(self, token: str) -> Caller:
        try:
            if not _COMPACT.fullmatch(token):
                raise jwt.DecodeError("not a compact JWS")
            header = jwt.get_unverified_header(token)
            if header.get("typ") != TOKEN_TYPE or header.get("alg") != "EdDSA" or "crit" in header:
                raise jwt.InvalidTokenError("wrong header")
            claims = jwt.decode(
                token,
                self._key(header.get("kid")),
                algorithms=["EdDSA"],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={"require": _REQUIRED, "strict_aud": True, "verify_iat": False},
            )
            return _caller(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise InvalidToken("caller token is not valid") from error

    def _key(self, kid: object) -> Ed25519PublicKey:
        if not isinstance(kid, str):
            raise jwt.InvalidKeyError("no kid")
        if kid not in self._keys:
            # A new key signs at once, so it is looked for at once. A forged kid costs a stat: the file is read again
            # only when it changed.
            self._look_for_new_keys(0)
        if kid not in self._keys:
            raise jwt.InvalidKeyError("unknown kid")
        return self._keys[kid]

    def _look_for_new_keys(self, every: float) -> None:
        now = time.monotonic()
        if now - self._checked < every:
            return
        self._checked = now
        try:
            self._load()
        except (OSError, ValueError) as error:
            _log.error("caller_keys.refused", file=str(self._file), error=str(error))

    def _load(self) -> None:
        info = self._file.stat()
        stamp = (info.st_mtime_ns, info.st_size, info.st_ino)
        if stamp == self._stamp:
            return
        self._keys = _parse_jwks(self._file.read_text())
        self._stamp = stamp
        self._verified.clear()


def _parse_jwks(text: str) -> dict[str, Ed25519PublicKey]:
    keys: dict[str, Ed25519PublicKey] = {}
    document = json.loads(text)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWKS document")
    for entry in cast(list[Any], entries):
        if isinstance(entry, Mapping) and entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519":
            try:
                raw = base64.urlsafe_b64decode(str(entry["x"]) + "==")
                keys[str(entry["kid"])] = Ed25519PublicKey.from_public_bytes(raw)
            except (KeyError, binascii.Error) as error:
                raise ValueError("a key lacks kid or x") from error
    if not keys:
        raise ValueError("no Ed25519 key in it")
    return keys


def _caller(claims: Mapping[str, Any]) -> Caller:
    """Types of all claims are checked here: PyJWT takes numeric strings for times and an empty subject."""
    for name in ("exp", "nbf", "iat"):
        if type(claims[name]) not in (int, float):
            raise ValueError(f"{name} is not a number")
    kind = claims.get("kind")
    if kind not in ("user", "service"):
        raise ValueError("unknown kind of caller")
    subject, token_id, tenant = _text(claims, "sub"), _text(claims, "jti"), _text(claims, "tenant", "")
    if not subject or not token_id:
        raise ValueError("empty subject or token id")
    if (kind == "service") != subject.startswith("service:"):
        raise ValueError("subject and kind contradict each other")
    if kind == "user" and not tenant:
        raise ValueError("a user without a tenant")
    return Caller(
        subject=subject,
        tenant=tenant,
        kind=kind,
        roles=_texts(claims, "roles"),
        groups=_texts(claims, "groups"),
        act=_text(claims, "act", "") or None,
        run_id=_text(claims, "run_id", "") or None,
        token_id=token_id,
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        name=_text(claims, "name", ""),
        owner=_text(claims, "owner", ""),
    )


def _text(claims: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = claims.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    return value


def _texts(claims: Mapping[str, Any], name: str) -> frozenset[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast(list[Any], value)):
        raise ValueError(f"{name} is not a list of strings")
    return frozenset(cast(list[str], value))


@dataclass(frozen=True)
class _Held:
    token: str
    ends: float


class ServiceTokenSource:
    """A service principal's tokens, from IdentityService.IssueServiceToken, kept until a minute before they end."""

    _RENEW_BEFORE = 60.0
    _TIMEOUT = 10.0

    def __init__(self, identity_target: str, service: str, secret: str, tls: ServiceTls | None = None) -> None:
        self._channel = connect(identity_target, tls)
        self._stub = identity_pb2_grpc.IdentityServiceStub(self._channel)
        self._service = service
        self._secret = secret
        self._held: dict[str, _Held] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def token(self, tenant: str = "") -> str:
        """A token that acts in ``tenant`` and lives for another minute at least.

        If identity cannot be reached, the one held is given out until it ends; then the SlipwayError is raised.
        """
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            held = self._held.get(tenant)
            now = time.time()
            if held is not None and held.ends - self._RENEW_BEFORE > now:
                return held.token
            request = identity_pb2.IssueServiceTokenRequest(service=self._service, secret=self._secret, tenant=tenant)
            try:
                answer = await invoke(
                    self._stub.IssueServiceToken, request, token="", timeout=self._TIMEOUT, wait_for_ready=True
                )
            except SlipwayError:
                await self._tell_tls_failure()
                if held is not None and held.ends > now:
                    return held.token
                raise
            self._held[tenant] = _Held(answer.token, answer.expire_time.ToNanoseconds() / 1e9)
            return answer.token

    async def _tell_tls_failure(self) -> None:
        """A call that waits for a connection does not say why there is none; one that does not wait does."""
        if self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            try:
                health: Any = health_pb2_grpc.HealthStub(self._channel)
                await health.Check(health_pb2.HealthCheckRequest(), timeout=1)
            except grpc.aio.AioRpcError as error:
                tell_tls_failure(error.details() or "")

    async def close(self) -> None:
        """Close the connection to identity."""
        await self._channel.close()
