"""Secrets by which the other services prove who they are when they ask for a token of their own."""

import hmac
from collections.abc import Mapping
from hashlib import sha256

from slipway_chassis.errors import Unauthenticated


class ServiceSecretWrong(Unauthenticated):
    """There is no such service, or its secret is another."""

    reason = "SERVICE_SECRET_WRONG"


class ServiceSecrets:
    """Checks service secrets, in a time that tells nothing about them."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._digests = {service: sha256(secret.encode()).digest() for service, secret in secrets.items()}

    def check(self, service: str, secret: str) -> None:
        """Raises ServiceSecretWrong, the same for an unknown service as for a wrong secret."""
        known = self._digests.get(service)
        given = sha256(secret.encode()).digest()
        if not hmac.compare_digest(known if known is not None else bytes(32), given) or known is None:
            raise ServiceSecretWrong("the service or its secret is wrong")
