"""From a bearer token to a principal."""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from slipway_gateway.oidc import compact
from slipway_gateway.oidc.claims import LEEWAY_SECONDS, ClaimRules, check_issuer, principal_of
from slipway_gateway.oidc.compact import TokenInvalid
from slipway_gateway.oidc.jwk import ALGORITHMS
from slipway_gateway.oidc.key_set import IssuerKeys
from slipway_gateway.principal import Principal

CACHE_ENTRIES: Final = 4096
# How long a key that the issuer withdrew may still be trusted for a token seen before.
CACHE_SECONDS: Final = 60.0


class OidcVerifier:
    """Verifies access tokens of one issuer."""

    def __init__(self, keys: IssuerKeys, rules: ClaimRules, *, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._rules = rules
        self._clock = clock
        self._verified: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """The principal of a token. Raises TokenInvalid, TokenExpired, TenantMissing, IdentityProviderUnavailable.

        A token that was verified is remembered for a minute by its digest: the signature costs more than the request.
        """
        now = self._clock()
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        remembered = self._verified.get(digest)
        if remembered is not None and now < remembered[0]:
            return remembered[1]
        parts = compact.read(token)
        if parts.algorithm not in ALGORITHMS:
            raise TokenInvalid("the token's algorithm is not allowed (`alg`)")
        # Before the key is looked for: tokens of other issuers cause no fetch, and learn why they are refused.
        check_issuer(parts.claims, self._rules)
        key = await self._keys.find(parts.key_id)
        if key is None:
            raise TokenInvalid("the token was signed with a key that the issuer does not have (`kid`)")
        if not key.verifies(parts.algorithm, parts.signing_input, parts.signature):
            raise TokenInvalid("the token's signature does not hold")
        principal = principal_of(parts.claims, self._rules, self._clock())
        self._remember(digest, principal, now)
        return principal

    def _remember(self, digest: bytes, principal: Principal, now: float) -> None:
        self._verified[digest] = (
            min(now + CACHE_SECONDS, principal.expires_at.timestamp() + LEEWAY_SECONDS),
            principal,
        )
        self._verified.move_to_end(digest)
        while len(self._verified) > CACHE_ENTRIES:
            self._verified.popitem(last=False)
