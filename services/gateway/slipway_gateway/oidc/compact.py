"""The compact form of a signed token (RFC 7515, 7519), read strictly: one token has one spelling."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from slipway_chassis.errors import Unauthenticated

from slipway_gateway import strict_json
from slipway_gateway.strict_json import JsonRejected, JsonValue

# Keycloak names every role and group of a person; the whole head of a request may have 32 KiB.
MAX_TOKEN_BYTES: Final = 24 * 1024
# Access tokens carry `JWT` (Keycloak) or `at+jwt` (RFC 9068); logout, DPoP and other tokens carry types of their own.
ACCESS_TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class TokenInvalid(Unauthenticated):
    """The bearer token is not one that this installation accepts."""

    reason = "TOKEN_INVALID"


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A token taken apart; nothing in it is verified."""

    algorithm: str
    key_id: str
    signing_input: bytes
    signature: bytes
    claims: Mapping[str, JsonValue]


def read(token: str) -> CompactToken:
    """Takes a token apart. Raises TokenInvalid.

    Padding and non-canonical base64 are refused: otherwise one token has many spellings, and whoever alters its last
    character holds a "tampered" token that still verifies. Keys in the header (`jwk`, `jku`, `x5u`, `x5c`) are never
    looked at; `crit` names extensions that must be understood (RFC 7515, 4.1.11), and none are.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenInvalid(
            f"the token is longer than {MAX_TOKEN_BYTES} bytes: have the identity provider put fewer roles and groups "
            "into it (Keycloak: switch the client's full scope off)"
        )
    if _COMPACT.fullmatch(token) is None:
        raise TokenInvalid("the token is not a signed JWT in compact form")
    header_part, claims_part, signature_part = token.split(".")
    header = _json(_decode(header_part, "header"), "header")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if "crit" in header:
        raise TokenInvalid("the token's header has critical extensions")
    if not isinstance(algorithm, str):
        raise TokenInvalid("the token's header names no algorithm")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= 256:
        raise TokenInvalid("the token's header names no key (`kid`)")
    if not isinstance(kind, str) or kind.lower() not in ACCESS_TOKEN_TYPES:
        raise TokenInvalid("the token's header says that it is no access token")
    return CompactToken(
        algorithm=algorithm,
        key_id=key_id,
        signing_input=f"{header_part}.{claims_part}".encode("ascii"),
        signature=_decode(signature_part, "signature"),
        claims=_json(_decode(claims_part, "payload"), "payload"),
    )


def _decode(part: str, name: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise TokenInvalid(f"the token's {name} is not base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode("ascii") != part:
        raise TokenInvalid(f"the token's {name} is not canonical base64url")
    return decoded


def _json(text: bytes, name: str) -> Mapping[str, JsonValue]:
    try:
        return strict_json.parse_object(text)
    except JsonRejected as error:
        raise TokenInvalid(f"the token's {name} is not acceptable: {error}") from None
