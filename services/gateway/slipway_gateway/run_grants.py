"""Run grants: signed at the start of a run, so that it can act for its caller long after the caller's token ended."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import jwt
from slipway_chassis.errors import PermissionDenied
from slipway_chassis.ids import new_id

from slipway_gateway.caller_tokens import ISSUER, CallerTokens, IssuedToken
from slipway_gateway.directory import Directory
from slipway_gateway.keys import KeyRing
from slipway_gateway.principal import Principal

AUDIENCE: Final = "slipway-identity"
GRANT_TYPE: Final = "slipway-run-grant+jwt"
MAX_LIFETIME_SECONDS: Final = 30 * 86_400


class GrantInvalid(PermissionDenied):
    """The run grant was not signed by this gateway, or not as a grant."""

    reason = "GRANT_INVALID"


class GrantExpired(PermissionDenied):
    """The run grant's time is over."""

    reason = "GRANT_EXPIRED"


class GrantRevoked(PermissionDenied):
    """The run grant was revoked."""

    reason = "GRANT_REVOKED"


class SubjectDisabled(PermissionDenied):
    """The run's subject is disabled, or gone."""

    reason = "SUBJECT_DISABLED"


@dataclass(frozen=True, slots=True)
class RunGrant:
    """What a grant says: in whose name, for which agent, until when."""

    grant_id: str
    tenant: str
    subject: str
    agent: str
    issued_at: datetime
    expires_at: datetime


class Revocations(Protocol):
    """Where revocations are kept."""

    async def is_revoked(self, grant: RunGrant) -> bool:
        """True when the grant, or all grants of its subject so far, were revoked."""
        ...

    async def revoke_grant(self, tenant: str, grant_id: str) -> None:
        """Revokes one grant of the tenant."""
        ...

    async def revoke_subject(self, tenant: str, subject: str) -> None:
        """Revokes every grant that the subject's runs hold so far."""
        ...


class RunGrants:
    """Signs, exchanges and revokes run grants."""

    def __init__(
        self,
        keys: KeyRing,
        tokens: CallerTokens,
        directory: Directory,
        revocations: Revocations,
        *,
        lifetime: int = MAX_LIFETIME_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._directory = directory
        self._revocations = revocations
        self._lifetime = min(lifetime, MAX_LIFETIME_SECONDS)
        self._clock = clock

    def sign(self, principal: Principal, agent: str) -> str:
        """A grant for a run of `agent` in the principal's name."""
        key = self._keys.signing_key()
        now = int(self._clock())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "jti": new_id("grt"),
            "sub": principal.subject,
            "tenant": principal.tenant,
            "roles": sorted(principal.roles),
            "agent": agent,
            "iat": now,
            "nbf": now,
            "exp": now + self._lifetime,
        }
        return jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.key_id, "typ": GRANT_TYPE})

    async def exchange(self, signed: str, *, run_id: str, version: int) -> IssuedToken:
        """A short token that acts for the grant's subject, with the roles that the subject has now.

        Raises GrantInvalid, GrantExpired, GrantRevoked, SubjectDisabled; Unavailable when the directory is.
        """
        grant = self._read(signed)
        if await self._revocations.is_revoked(grant):
            raise GrantRevoked(f"the grant {grant.grant_id} was revoked")
        subject = await self._directory.find(grant.tenant, grant.subject)
        if subject is None:
            raise SubjectDisabled(f"{grant.subject} is disabled or no longer exists")
        return self._tokens.for_subject(
            subject=grant.subject,
            tenant=grant.tenant,
            roles=subject.roles,
            groups=subject.groups,
            name=subject.name,
            act=f"{grant.agent}@{version}" if version else grant.agent,
            run_id=run_id,
        )

    async def revoke(self, tenant: str, *, grant_id: str = "", subject: str = "") -> None:
        """Revokes one grant, or all of a subject's grants, of a tenant."""
        if grant_id:
            await self._revocations.revoke_grant(tenant, grant_id)
        else:
            await self._revocations.revoke_subject(tenant, subject)

    def _read(self, signed: str) -> RunGrant:
        claims = self._verify(signed)
        now = self._clock()
        if claims["exp"] <= now:
            raise GrantExpired("the run's grant has ended")
        return RunGrant(
            grant_id=claims["jti"],
            tenant=claims["tenant"],
            subject=claims["sub"],
            agent=claims["agent"],
            issued_at=datetime.fromtimestamp(claims["iat"], UTC),
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )

    def _verify(self, signed: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(signed)
            key = self._keys.public_key(str(header.get("kid")))
            # Caller tokens are signed with the same key: only the type and the audience keep the two apart.
            if header.get("typ") != GRANT_TYPE or key is None:
                raise GrantInvalid("this is no run grant of this gateway")
            return jwt.decode(
                signed,
                key,
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={
                    "require": ["exp", "iat", "sub", "jti"],
                    # The time is checked against the injected clock, by the caller of this function.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            raise GrantInvalid("this is no run grant of this gateway") from None
