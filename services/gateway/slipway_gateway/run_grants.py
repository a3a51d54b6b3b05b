"""Run grants: signed at the start of a run, so that it can act for its caller long after the caller's token ended.

Schedule grants: signed when a schedule is put, and traded for the grant of each run that it starts. They have no end of
their own: their subject and their revocation are looked at for each run.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import jwt
from slipway_chassis.errors import PermissionDenied
from slipway_chassis.ids import new_id

from slipway_gateway.caller_tokens import ISSUER, CallerTokens, IssuedToken
from slipway_gateway.directory import Directory, Subject
from slipway_gateway.keys import KeyRing
from slipway_gateway.principal import Principal

AUDIENCE: Final = "slipway-identity"
GRANT_TYPE: Final = "slipway-run-grant+jwt"
SCHEDULE_GRANT_TYPE: Final = "slipway-schedule-grant+jwt"
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
    owner: str = ""
    """Who made the API key that the subject is."""


@dataclass(frozen=True, slots=True)
class ScheduledGrants:
    """What a schedule's grant is traded for."""

    run_grant: str
    schedule_grant: str
    token: IssuedToken


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

    def sign(self, principal: Principal, agent: str, *, not_before: float | None = None) -> str:
        """A grant for a run of `agent` in the principal's name. `not_before`: Unix seconds of its earliest start."""
        return self._sign_run(
            principal.tenant, principal.subject, principal.roles, agent, max(self._clock(), not_before or 0.0)
        )

    def sign_schedule(self, principal: Principal, agent: str) -> str:
        """A grant for the runs that a schedule of `agent` starts in the principal's name."""
        return self._sign_schedule(principal.tenant, principal.subject, principal.owner, agent, new_id("grt"))

    def _sign_schedule(self, tenant: str, subject: str, owner: str, agent: str, grant_id: str) -> str:
        claims: dict[str, object] = {"sub": subject, "tenant": tenant, "agent": agent, "jti": grant_id}
        return self._sign(claims | ({"owner": owner} if owner else {}), SCHEDULE_GRANT_TYPE)

    def _sign_run(self, tenant: str, subject: str, roles: Iterable[str], agent: str, start: float) -> str:
        claims = {
            "sub": subject,
            "tenant": tenant,
            "roles": sorted(roles),
            "agent": agent,
            "jti": new_id("grt"),
            "nbf": int(self._clock()),
            "exp": int(start) + self._lifetime,
        }
        return self._sign(claims, GRANT_TYPE)

    def _sign(self, claims: Mapping[str, object], kind: str) -> str:
        key = self._keys.signing_key()
        common = {"iss": ISSUER, "aud": AUDIENCE, "iat": int(self._clock())}
        return jwt.encode(
            {**claims, **common}, key.private, algorithm="EdDSA", headers={"kid": key.key_id, "typ": kind}
        )

    async def exchange(self, signed: str, *, run_id: str, version: int, agent: str = "") -> IssuedToken:
        """A short token that acts for the grant's subject, with the roles that the subject has now.

        `agent` is the one that acts: a sub-agent in the grant's tree of runs; by default the grant's own.
        Raises GrantInvalid, GrantExpired, GrantRevoked, SubjectDisabled; Unavailable when the directory is.
        """
        grant = self._read(signed)
        subject = await self._current(grant)
        return self._tokens.for_subject(
            subject=grant.subject,
            tenant=grant.tenant,
            roles=subject.roles,
            groups=subject.groups,
            name=subject.name,
            act=f"{agent or grant.agent}@{version}" if version else agent or grant.agent,
            run_id=run_id,
        )

    async def issue_scheduled(self, signed: str, *, agent: str) -> "ScheduledGrants":
        """The grant of one run that a schedule starts, and a token of its subject as it is now.

        The schedule's own grant comes back signed by the key of now, with its id: keys are rotated, schedules stay.
        Raises GrantInvalid, GrantRevoked, SubjectDisabled; Unavailable when the directory is.
        """
        claims = self._verify(signed, SCHEDULE_GRANT_TYPE)
        grant = _grant(claims)
        if grant.agent != agent:
            raise GrantInvalid("the grant is for a schedule of another agent")
        subject = await self._current(grant)
        token = self._tokens.for_subject(
            subject=grant.subject,
            tenant=grant.tenant,
            roles=subject.roles,
            groups=subject.groups,
            name=subject.name,
            owner=grant.owner,
        )
        return ScheduledGrants(
            run_grant=self._sign_run(grant.tenant, grant.subject, subject.roles, agent, self._clock()),
            schedule_grant=self._sign_schedule(grant.tenant, grant.subject, grant.owner, agent, grant.grant_id),
            token=token,
        )

    async def _current(self, grant: RunGrant) -> Subject:
        """The grant's subject as it is now."""
        if await self._revocations.is_revoked(grant):
            raise GrantRevoked(f"the grant {grant.grant_id} was revoked")
        subject = await self._directory.find(grant.tenant, grant.subject)
        if subject is None:
            raise SubjectDisabled(f"{grant.subject} is disabled or no longer exists")
        return subject

    async def revoke(self, tenant: str, *, grant_id: str = "", subject: str = "") -> None:
        """Revokes one grant, or all of a subject's grants, of a tenant."""
        if grant_id:
            await self._revocations.revoke_grant(tenant, grant_id)
        else:
            await self._revocations.revoke_subject(tenant, subject)

    def _read(self, signed: str) -> RunGrant:
        claims = self._verify(signed, GRANT_TYPE)
        if claims["exp"] <= self._clock():
            raise GrantExpired("the run's grant has ended")
        return _grant(claims)

    def _verify(self, signed: str, kind: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(signed)
            key = self._keys.public_key(str(header.get("kid")))
            # Caller tokens are signed with the same key: only the type and the audience keep them apart.
            if header.get("typ") != kind or key is None:
                raise GrantInvalid("this is no such grant of this gateway")
            return jwt.decode(
                signed,
                key,
                algorithms=["EdDSA"],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={
                    "require": ["iat", "sub", "jti", *(["exp"] if kind == GRANT_TYPE else [])],
                    # The time is checked against the injected clock, by the caller of this function.
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError:
            raise GrantInvalid("this is no such grant of this gateway") from None


def _grant(claims: Mapping[str, Any]) -> RunGrant:
    return RunGrant(
        grant_id=claims["jti"],
        tenant=claims["tenant"],
        subject=claims["sub"],
        agent=claims["agent"],
        issued_at=datetime.fromtimestamp(claims["iat"], UTC),
        owner=claims.get("owner", ""),
    )
