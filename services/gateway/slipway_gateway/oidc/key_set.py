"""The issuer's keys, fetched from where the configuration says, and fetched again when a token names an unknown one."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from slipway_chassis.errors import Unavailable

from slipway_gateway.oidc.jwk import VerificationKey

REFRESH_INTERVAL_SECONDS: Final = 2.0
# After this time keys are fetched anew, so that one the issuer withdrew stops to count.
MAX_AGE_SECONDS: Final = 600.0

log = structlog.get_logger(__name__)


class IdentityProviderUnavailable(Unavailable):
    """The identity provider's keys cannot be fetched, so that a token can be neither accepted nor refused."""

    reason = "IDENTITY_PROVIDER_UNAVAILABLE"


class IssuerKeys:
    """Keys by `kid`. At most one fetch every two seconds, shared by all who wait for it.

    A token with a known `kid` never waits: neither a flood of unknown ones nor an issuer that is down holds it up. A
    token with an unknown `kid` waits for the next fetch that the limit allows, so that a flood cannot lock out
    the first good tokens after a rotation either.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Mapping[str, VerificationKey]]],
        *,
        interval: float = REFRESH_INTERVAL_SECONDS,
        max_age: float = MAX_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._interval = interval
        self._max_age = max_age
        self._clock = clock
        self._keys: Mapping[str, VerificationKey] = {}
        self._loaded_at = float("-inf")
        self._tried_at = float("-inf")
        self._refresh: asyncio.Task[bool] | None = None

    async def find(self, key_id: str) -> VerificationKey | None:
        """The key, or None when the issuer has none of that name. Raises IdentityProviderUnavailable."""
        key = self._keys.get(key_id)
        if key is not None:
            if self._clock() - self._loaded_at > self._max_age:
                self._shared_refresh()
            return key
        if not await asyncio.shield(self._shared_refresh()):
            raise IdentityProviderUnavailable("the identity provider's keys cannot be fetched", retry_after=2)
        return self._keys.get(key_id)

    async def load(self) -> None:
        """The first fetch, at start; an issuer that is down is only logged, its keys are fetched when they are needed.

        Raises ValueError for an answer that waiting does not mend: another realm, no keys, no https.
        """
        self._tried_at = self._clock()
        try:
            self._take(await self._fetch())
        except OSError as error:
            log.warning("oidc.keys_not_fetched", reason=str(error) or type(error).__name__)

    async def check(self) -> None:
        """Readiness: keys were fetched once. Raises IdentityProviderUnavailable."""
        if not self._keys and not await asyncio.shield(self._shared_refresh()):
            raise IdentityProviderUnavailable("the identity provider's keys cannot be fetched")

    async def close(self) -> None:
        """Ends a fetch that is under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    def _shared_refresh(self) -> "asyncio.Task[bool]":
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._refresh_once(), name="issuer-keys")
        return self._refresh

    async def _refresh_once(self) -> bool:
        await asyncio.sleep(max(0.0, self._tried_at + self._interval - self._clock()))
        self._tried_at = self._clock()
        try:
            keys = await self._fetch()
        except (OSError, ValueError) as error:
            log.warning("oidc.keys_not_fetched", reason=str(error) or type(error).__name__)
            return False
        self._take(keys)
        return True

    def _take(self, keys: Mapping[str, VerificationKey]) -> None:
        self._keys = keys
        self._loaded_at = self._clock()
        log.info("oidc.keys_fetched", count=len(keys))
