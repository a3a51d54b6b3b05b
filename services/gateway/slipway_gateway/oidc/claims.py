"""What the claims of an access token must say, and the principal that they make."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from slipway_chassis.errors import PermissionDenied

from slipway_gateway.oidc.compact import TokenInvalid
from slipway_gateway.principal import Principal, is_outside_subject, is_tenant
from slipway_gateway.strict_json import JsonValue

LEEWAY_SECONDS: Final = 10
# A token that outlives this is a mistake of the issuer, and a time beyond what a date can hold is an attack.
MAX_LIFETIME_SECONDS: Final = 7 * 86_400


class TokenExpired(TokenInvalid):
    """The bearer token's time is over."""

    reason = "TOKEN_EXPIRED"


class TenantMissing(PermissionDenied):
    """The token is good, but its user belongs to no tenant."""

    reason = "TENANT_MISSING"


@dataclass(frozen=True)
class ClaimRules:
    """What is demanded of a token, and where its identity stands. Claim names may be paths: `realm_access.roles`."""

    issuer: str
    audiences: frozenset[str]
    clients: frozenset[str]
    subject_claim: str = "sub"
    tenant_claim: str = "tenant"
    roles_claim: str = "realm_access.roles"
    groups_claim: str = "groups"
    client_claim: str = "azp"


def principal_of(claims: Mapping[str, JsonValue], rules: ClaimRules, now: float) -> Principal:
    """Checks the claims of a token whose signature holds. Raises TokenInvalid, TokenExpired or TenantMissing.

    `now` is in Unix seconds. Issuer, audience, client and time as in RFC 9068, 4; the payload's `typ` because Keycloak
    signs ID, refresh and logout tokens with the same key.
    """
    check_issuer(claims, rules)
    if rules.audiences.isdisjoint(_texts(claims.get("aud"), "aud")):
        raise TokenInvalid(
            f"the token is not meant for {' or '.join(sorted(rules.audiences))!r} (`aud`): the identity provider has "
            "to put this audience into access tokens (Keycloak: an audience mapper in a default scope of the client)"
        )
    # RFC 9068, 2.2 calls it `client_id`.
    default = claims.get("client_id") if rules.client_claim == "azp" else None
    if claims.get(rules.client_claim, default) not in rules.clients:
        raise TokenInvalid(
            f"the token was issued to a client that is not allowed (`{rules.client_claim}`): sign in through another "
            "client, or have this one added to SLIPWAY_GATEWAY_OIDC_AZP"
        )
    if claims.get("typ", "Bearer") != "Bearer":
        raise TokenInvalid("the token is no access token (`typ`)")
    expires = _check_times(claims, now)
    subject = _lookup(claims, rules.subject_claim)
    if not isinstance(subject, str) or not is_outside_subject(subject):
        raise TokenInvalid(f"the token names no acceptable subject (`{rules.subject_claim}`)")
    tenant = _lookup(claims, rules.tenant_claim)
    if not isinstance(tenant, str) or not is_tenant(tenant):
        raise TenantMissing(
            f"{subject} belongs to no tenant (`{rules.tenant_claim}`): the identity provider has to put the tenant's "
            "name into access tokens (Keycloak: the user's attribute, and a mapper of it in a default scope)",
            field=rules.tenant_claim,
        )
    name = claims.get("preferred_username")
    token_id = claims.get("jti")
    return Principal(
        subject=subject,
        tenant=tenant,
        roles=frozenset(_texts(_lookup(claims, rules.roles_claim), rules.roles_claim)),
        groups=frozenset(
            group.removeprefix("/") for group in _texts(_lookup(claims, rules.groups_claim), rules.groups_claim)
        ),
        name=name if isinstance(name, str) and name else subject,
        method="oidc",
        token_id=token_id if isinstance(token_id, str) else "",
        expires_at=datetime.fromtimestamp(expires, UTC),
    )


def check_issuer(claims: Mapping[str, JsonValue], rules: ClaimRules) -> None:
    """Raises TokenInvalid for a token of another issuer."""
    if claims.get("iss") != rules.issuer:
        raise TokenInvalid(f"the token was issued by somebody else (`iss`): tokens of {rules.issuer} are accepted here")


def _check_times(claims: Mapping[str, JsonValue], now: float) -> float:
    issued, expires = _time(claims, "iat"), _time(claims, "exp")
    if issued is None or expires is None:
        raise TokenInvalid("the token has no `iat` and `exp`")
    if now >= expires + LEEWAY_SECONDS:
        raise TokenExpired("the token has expired (`exp`)")
    not_before = _time(claims, "nbf")
    ahead = max(issued, not_before or 0.0) - now
    if ahead > LEEWAY_SECONDS:
        raise TokenInvalid(
            f"the token is not valid yet, by {ahead:.0f} s (`nbf`, `iat`): the clocks of issuer and gateway differ, "
            "set both by NTP"
        )
    if expires - now > MAX_LIFETIME_SECONDS:
        raise TokenInvalid("the token lives too long (`exp`)")
    return expires


def _time(claims: Mapping[str, JsonValue], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    # A NumericDate is a JSON number (RFC 7519, 2); bool is an int in Python.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise TokenInvalid(f"the token's `{name}` is not a number of seconds")
    return float(value)


def _lookup(claims: Mapping[str, JsonValue], path: str) -> JsonValue:
    """The claim at a dotted path; a claim whose name is the whole path (URLs of Auth0 and others) goes first."""
    if path in claims:
        return claims[path]
    value: JsonValue = dict(claims)
    for step in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _texts(value: JsonValue, name: str) -> Sequence[str]:
    """A string or a list of strings, as `aud` and most providers' role claims are; absent is empty."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise TokenInvalid(f"the token's `{name}` is not a list of strings")
    texts = [item for item in value if isinstance(item, str) and item]
    if len(texts) != len(value):
        raise TokenInvalid(f"the token's `{name}` is not a list of strings")
    return texts
