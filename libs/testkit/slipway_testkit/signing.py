"""A caller-token authority for tests: what the gateway is in production."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm


class SigningAuthority:
    """Holds an Ed25519 key, publishes its JWKS as a file, and signs internal caller tokens."""

    def __init__(self, folder: Path) -> None:
        self.jwks_file = folder / "jwks.json"
        self._keys: dict[str, Ed25519PrivateKey] = {}
        self.rotate()

    def rotate(self) -> None:
        """Adds a key, signs with it from now on; tokens of earlier keys stay valid."""
        self._kid = secrets.token_hex(4)
        self._keys[self._kid] = Ed25519PrivateKey.generate()
        keys = [
            {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": "EdDSA", "use": "sig"}
            for kid, key in self._keys.items()
        ]
        # Replaced in one step: a verifier that reads meanwhile sees the old set or the new one.
        new = self.jwks_file.with_suffix(".new")
        new.write_text(json.dumps({"keys": keys}))
        new.replace(self.jwks_file)

    def token(
        self,
        subject: str = "alice",
        tenant: str = "acme",
        roles: Sequence[str] = ("developer", "operator"),
        *,
        groups: Sequence[str] = (),
        act: str | None = None,
        run_id: str | None = None,
        name: str | None = None,
        kind: Literal["user", "service"] = "user",
        lifetime: float = 300,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A signed token; `lifetime` in seconds (negative: expired). Further claims and headers override."""
        now = int(time.time())
        payload: dict[str, Any] = {
            "iss": "slipway-gateway",
            "aud": "slipway-internal",
            "sub": subject,
            "tenant": tenant,
            "kind": kind,
            "roles": list(roles),
            "groups": list(groups),
            "jti": secrets.token_hex(8),
            "iat": now,
            "nbf": now,
            "exp": now + int(lifetime),
        }
        optional = {"act": act, "run_id": run_id, "name": name}
        payload |= {claim: value for claim, value in optional.items() if value is not None}
        payload |= claims
        headers = {"kid": self._kid, "typ": "slipway-caller+jwt", **(header or {})}
        return jwt.encode(payload, self._keys[self._kid], algorithm="EdDSA", headers=headers)

    def service_token(self, service: str, tenant: str = "", *, lifetime: float = 300, **claims: Any) -> str:
        """A token of the service principal `service:<name>`."""
        return self.token(f"service:{service}", tenant, ["service"], kind="service", lifetime=lifetime, **claims)
