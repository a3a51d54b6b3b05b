"""The short internal tokens that every gRPC call carries."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import jwt
from slipway_chassis.ids import new_id

from slipway_gateway.keys import KeyRing
from slipway_gateway.principal import Principal

ISSUER: Final = "slipway-gateway"
AUDIENCE: Final = "slipway-internal"
TOKEN_TYPE: Final = "slipway-caller+jwt"  # noqa: S105 - the type's name
LIFETIME_SECONDS: Final = 300
# A token handed out has at least this long to live: a call's deadline, and its calls of others, fit in.
FRESH_SECONDS: Final = 180
CACHE_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A signed token and its end."""

    token: str
    expires_at: datetime


class CallerTokens:
    """Signs internal tokens (EdDSA). `clock` gives Unix seconds."""

    def __init__(self, keys: KeyRing, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._issued: OrderedDict[Principal, tuple[float, str]] = OrderedDict()

    def for_principal(self, principal: Principal) -> str:
        """A token for a verified caller; one is reused for two minutes."""
        now = self._clock()
        issued = self._issued.get(principal)
        if issued is not None and now < issued[0]:
            return issued[1]
        token = self.for_subject(
            subject=principal.subject,
            tenant=principal.tenant,
            roles=principal.roles,
            groups=principal.groups,
            name=principal.name,
            owner=principal.owner,
        ).token
        self._issued[principal] = (now + LIFETIME_SECONDS - FRESH_SECONDS, token)
        self._issued.move_to_end(principal)
        while len(self._issued) > CACHE_ENTRIES:
            self._issued.popitem(last=False)
        return token

    def for_subject(
        self,
        *,
        subject: str,
        tenant: str,
        roles: Iterable[str],
        groups: Iterable[str],
        name: str = "",
        owner: str = "",
        act: str | None = None,
        run_id: str | None = None,
    ) -> IssuedToken:
        """A token of a user; with `act` and `run_id`, of an agent version that acts in the user's name."""
        further = {"act": act, "run_id": run_id, "name": name or None, "owner": owner or None}
        return self._sign(
            {
                "sub": subject,
                "tenant": tenant,
                "kind": "user",
                "roles": sorted(roles),
                "groups": sorted(groups),
                **{claim: value for claim, value in further.items() if value is not None},
            }
        )

    def for_service(self, service: str, tenant: str) -> IssuedToken:
        """A token of a service's own principal; `tenant` may be empty."""
        return self._sign(
            {"sub": f"service:{service}", "tenant": tenant, "kind": "service", "roles": ["service"], "groups": []}
        )

    def _sign(self, claims: dict[str, object]) -> IssuedToken:
        key = self._keys.signing_key()
        now = int(self._clock())
        expires = now + LIFETIME_SECONDS
        payload = claims | {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "jti": new_id("tok"),
            "iat": now,
            "nbf": now,
            "exp": expires,
        }
        token = jwt.encode(payload, key.private, algorithm="EdDSA", headers={"kid": key.key_id, "typ": TOKEN_TYPE})
        return IssuedToken(token, datetime.fromtimestamp(expires, UTC))
