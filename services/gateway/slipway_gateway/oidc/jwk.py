"""Public keys of an issuer (RFC 7517): which key may verify which algorithm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

import jwt
import structlog
from jwt.algorithms import Algorithm, get_default_algorithms

from slipway_gateway.strict_json import JsonValue

# Asymmetric only: with HS256 in the list, whoever knows the public key can sign.
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
_FAMILY: Final = {"RSA": ("RS256", "PS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}
_CURVES: Final = {"EC": "P-256", "OKP": "Ed25519"}
MIN_RSA_BITS: Final = 2048

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key and the algorithms that it may be used with."""

    key_id: str
    verifiers: Mapping[str, tuple[Algorithm, object]]

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """True when the signature holds; False too for an algorithm that this key is not for."""
        entry = self.verifiers.get(algorithm)
        if entry is None:
            return False
        checker, key = entry
        return bool(checker.verify(signing_input, key, signature))


def read_jwks(document: Mapping[str, JsonValue]) -> dict[str, VerificationKey]:
    """The usable signature keys of a JWKS by `kid`. Keys that cannot be used are left out, with a log line."""
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise ValueError("the document has no `keys`")
    usable: dict[str, VerificationKey] = {}
    for entry in keys:
        if not isinstance(entry, dict):
            continue
        try:
            key = _read(entry)
        except (jwt.PyJWTError, ValueError) as error:
            log.warning("jwks.key_left_out", kid=str(entry.get("kid")), reason=str(error))
            continue
        if key is not None:
            usable[key.key_id] = key
    return usable


def _read(entry: dict[str, JsonValue]) -> VerificationKey | None:
    kind, key_id = entry.get("kty"), entry.get("kid")
    if not isinstance(key_id, str) or not key_id or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    if kind in _CURVES and entry.get("crv") != _CURVES[str(kind)]:
        return None
    allowed = [name for name in _FAMILY.get(str(kind), ()) if entry.get("alg", name) == name]
    if not allowed:
        return None
    algorithms = cast(Mapping[str, Algorithm], get_default_algorithms())
    verifiers: dict[str, tuple[Algorithm, object]] = {}
    for name in allowed:
        key = cast(object, algorithms[name].from_jwk(cast(dict[str, str], entry)))
        if kind == "RSA" and getattr(key, "key_size", 0) < MIN_RSA_BITS:
            raise ValueError(f"an RSA key has fewer than {MIN_RSA_BITS} bits")
        verifiers[name] = (algorithms[name], key)
    return VerificationKey(key_id, verifiers)
