"""Tokens with the claims that Keycloak gives."""

import time
import uuid
from typing import Any

import jwt

from slipway_gateway.dev_issuer.keys import SigningKeys
from slipway_gateway.realm import RealmClient, RealmUser


class TokenMaker:
    """Signs access and ID tokens of one issuer (RS256)."""

    def __init__(self, keys: SigningKeys, issuer: str) -> None:
        self._keys = keys
        self._issuer = issuer

    def access_token(self, user: RealmUser, client: RealmClient, lifespan: int) -> str:
        """An access token of `lifespan` seconds; the client's mappers decide on audience, tenant and groups."""
        claims = self._common(user, client, lifespan, "Bearer") | {
            "aud": ["account"],
            "realm_access": {"roles": sorted(user.roles)},
            "scope": "openid profile",
        }
        for mapper in client.mappers:
            _apply(mapper.protocolMapper, mapper.config, claims, user)
        return self._sign(claims)

    def id_token(self, user: RealmUser, client: RealmClient, lifespan: int, nonce: str) -> str:
        """An ID token (OpenID Connect Core 1.0, 2): for the client itself, never for an API."""
        claims = self._common(user, client, lifespan, "ID") | {"aud": client.client_id}
        return self._sign(claims | ({"nonce": nonce} if nonce else {}))

    def _common(self, user: RealmUser, client: RealmClient, lifespan: int, kind: str) -> dict[str, Any]:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "sub": user.user_id,
            "typ": kind,
            "azp": client.client_id,
            "iat": now,
            "exp": now + lifespan,
            "jti": str(uuid.uuid4()),
            "preferred_username": user.username,
        }
        optional = {"name": user.full_name, "email": user.email}
        return claims | {claim: value for claim, value in optional.items() if value}

    def _sign(self, claims: dict[str, Any]) -> str:
        key = self._keys.signing_key()
        return jwt.encode(claims, key.private, algorithm="RS256", headers={"kid": key.key_id})


def _apply(kind: str, config: Any, claims: dict[str, Any], user: RealmUser) -> None:
    """One of Keycloak's protocol mappers; those that the realm does not use are not known."""
    if config.get("access.token.claim", "true") != "true":
        return
    match kind:
        case "oidc-audience-mapper":
            audience = config.get("included.custom.audience") or config.get("included.client.audience")
            if audience and audience not in claims["aud"]:
                # Keycloak adds `account` for a client with account roles only; here nobody has them.
                claims["aud"] = [name for name in claims["aud"] if name != "account"] + [audience]
        case "oidc-usermodel-attribute-mapper":
            values = list(user.attributes.get(config.get("user.attribute", ""), ()))
            if values and config.get("claim.name"):
                claims[config["claim.name"]] = values if config.get("multivalued") == "true" else values[0]
        case "oidc-group-membership-mapper":
            full = config.get("full.path", "true") == "true"
            claims[config.get("claim.name", "groups")] = [
                path if full else path.rsplit("/", 1)[-1] for path in user.group_paths
            ]
        case _:
            return
