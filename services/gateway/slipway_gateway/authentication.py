"""From the `Authorization` header to a principal."""

from slipway_chassis.errors import Unauthenticated

from slipway_gateway.api_keys import KEY_PREFIX, ApiKeys
from slipway_gateway.oidc.compact import TokenInvalid
from slipway_gateway.oidc.verifier import OidcVerifier
from slipway_gateway.principal import Principal


class TokenMissing(Unauthenticated):
    """The request carries no bearer token."""

    reason = "TOKEN_MISSING"


class Authenticator:
    """Takes OIDC access tokens and API keys."""

    def __init__(self, oidc: OidcVerifier, api_keys: ApiKeys) -> None:
        self._oidc = oidc
        self._api_keys = api_keys

    async def authenticate(self, authorization: list[str]) -> Principal:
        """The principal of a request, given the values of its `Authorization` headers.

        Raises TokenMissing, TokenInvalid and its subclasses, TenantMissing, IdentityProviderUnavailable.
        """
        if not authorization:
            raise TokenMissing("send an access token or an API key as `Authorization: Bearer …`")
        if len(authorization) > 1:
            raise TokenInvalid("there is more than one Authorization header")
        scheme, _, credential = authorization[0].partition(" ")
        if scheme.lower() != "bearer" or not credential:
            raise TokenMissing("the Authorization header is not of the form `Bearer …`")
        if credential.startswith(KEY_PREFIX):
            return await self._api_keys.authenticate(credential)
        return await self._oidc.verify(credential)
