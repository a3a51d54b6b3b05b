"""Makes tokens that a gateway must refuse, from the issuer's own key and from others."""

import base64
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from slipway_gateway.oidc.compact import MAX_TOKEN_BYTES


def segment(value: Any) -> str:
    return base64url(json.dumps(value).encode())


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    header, payload, signature = token.split(".")

    def read(part: str) -> Any:
        return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))

    return read(header), read(payload), signature


class Forger:
    """Knows the issuer's private key: what it makes differs from a good token in one thing only."""

    def __init__(self, key_dir: Path, good: str) -> None:
        key = load_pem_private_key((key_dir / "issuer.pem").read_bytes(), None)
        assert isinstance(key, RSAPrivateKey)
        self.key = key
        self.good = good
        self.header, self.claims, _ = parts(good)

    def sign(
        self,
        claims: dict[str, Any] | str | None = None,
        header: dict[str, Any] | None = None,
        key: RSAPrivateKey | None = None,
        drop: tuple[str, ...] = (),
    ) -> str:
        """A token with these claims and headers over the good ones; a text replaces the payload's JSON."""
        payload = claims if isinstance(claims, str) else json.dumps(self._without(self.claims | (claims or {}), drop))
        head = {name: value for name, value in (self.header | (header or {})).items() if value is not None}
        signing_input = f"{segment(head)}.{base64url(payload.encode())}"
        signature = (key or self.key).sign(signing_input.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signing_input}.{base64url(signature)}"

    @staticmethod
    def _without(claims: dict[str, Any], drop: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name, value in claims.items() if name not in drop}

    def unsigned(self, algorithm: str) -> str:
        return f"{segment(self.header | {'alg': algorithm})}.{segment(self.claims)}."

    def hmac_with_public_key(self) -> str:
        """The classic confusion: HS256 with the public key's PEM as the secret."""
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signing_input = f"{segment(self.header | {'alg': 'HS256'})}.{segment(self.claims)}"
        mac = hmac.HMAC(pem, hashes.SHA256())
        mac.update(signing_input.encode())
        return f"{signing_input}.{base64url(mac.finalize())}"

    def with_payload(self, **claims: Any) -> str:
        """The good token with another payload under the old signature."""
        header, _, signature = self.good.split(".")
        return f"{header}.{segment(self.claims | claims)}.{signature}"

    def with_respelt_signature(self) -> str:
        """The same signature bytes, with the unused bits of the last character set."""
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        last = alphabet.index(self.good[-1])
        assert last % 16 == 0, "a 2048-bit signature ends with four unused bits"
        return self.good[:-1] + alphabet[last + 1]

    def with_own_key(self, **header: Any) -> str:
        """Signed by a stranger under the issuer's `kid`."""
        stranger = generate_private_key(public_exponent=65537, key_size=2048)
        numbers = stranger.public_key().public_numbers()
        jwk = {"kty": "RSA", "n": base64url(numbers.n.to_bytes(256, "big")), "e": "AQAB", "alg": "RS256"}
        extra = {name: jwk if value == "own" else value for name, value in header.items()}
        return self.sign(header=extra, key=stranger)


def forgeries(forger: Forger) -> dict[str, str]:
    """Name of the forgery and the token."""
    now = int(time.time())
    sign = forger.sign
    duplicated = json.dumps(forger.claims)[:-1] + ', "sub": "dave"}'
    return {
        "no signature, alg none": forger.unsigned("none"),
        "no signature, alg NONE": forger.unsigned("NONE") + "AA",
        "HS256 with the public key": forger.hmac_with_public_key(),
        "another algorithm named": sign(header={"alg": "RS512"}),
        "no algorithm": sign(header={"alg": None}),
        "another issuer": sign({"iss": "http://127.0.0.1:1/realms/slipway"}),
        "issuer with a slash": sign({"iss": forger.claims["iss"] + "/"}),
        "no issuer": sign(drop=("iss",)),
        "another audience": sign({"aud": ["account"]}),
        "audience that begins alike": sign({"aud": "slipway-internal"}),
        "no audience": sign(drop=("aud",)),
        "audience of another type": sign({"aud": {"slipway": True}}),
        "a client that is not allowed": sign({"azp": "somebody-elses-app"}),
        "no client": sign(drop=("azp",)),
        "expired": sign({"exp": now - 60}),
        "no expiry": sign(drop=("exp",)),
        "expiry as a text": sign({"exp": str(now + 300)}),
        "expiry true": sign({"exp": True}),
        "expiry beyond all dates": sign({"exp": 10**18}),
        "expiry infinite": sign(json.dumps(forger.claims | {"exp": 0}).replace('"exp": 0', '"exp": 1e999')),
        "expiry not a number": sign(json.dumps(forger.claims | {"exp": 0}).replace('"exp": 0', '"exp": NaN')),
        "not yet valid": sign({"nbf": now + 120}),
        "not-before as a text": sign({"nbf": "0"}),
        "issued in the future": sign({"iat": now + 120}),
        "no time of issue": sign(drop=("iat",)),
        "an ID token": sign({"typ": "ID"}),
        "a refresh token": sign({"typ": "Refresh"}),
        "a logout token": sign({"typ": "Logout"}, {"typ": "logout+jwt"}),
        "a logout token by its header": sign(header={"typ": "logout+jwt"}),
        "empty subject": sign({"sub": ""}),
        "no subject": sign(drop=("sub",)),
        "subject of another type": sign({"sub": ["alice"]}),
        "subject of a service": sign({"sub": "service:orchestrator"}),
        "subject of an API key": sign({"sub": "api-key:ci"}),
        "roles of another type": sign({"realm_access": {"roles": "a,b", "x": 1}} | {"groups": [1]}),
        "subject given twice": sign(duplicated),
        "payload that is no object": sign('["alice"]'),
        "payload that is no JSON": sign("{"),
        "altered payload": forger.with_payload(realm_access={"roles": ["platform-admin"]}),
        "altered tenant": forger.with_payload(tenant="globex"),
        "padded signature": forger.good + "==",
        "respelt signature": forger.with_respelt_signature(),
        "cut signature": forger.good[:-8],
        "empty signature": forger.good.rpartition(".")[0] + ".",
        "unknown key id": sign(header={"kid": "nobody"}),
        "no key id": sign(header={"kid": None}),
        "key id of another type": sign(header={"kid": 7}),
        "a stranger's key under our key id": forger.with_own_key(),
        "a key in the header": forger.with_own_key(jwk="own"),
        "a key in the header, its own id": forger.with_own_key(jwk="own", kid="mine"),
        "a key set to be fetched": forger.with_own_key(jku="http://127.0.0.1:9/jwks.json"),
        "a certificate to be fetched": forger.with_own_key(x5u="http://127.0.0.1:9/cert.pem"),
        "a critical extension": sign(header={"crit": ["exp"], "b64": False}),
        "longer than allowed": sign({"padding": "x" * (MAX_TOKEN_BYTES * 3 // 4)}),  # base64 makes it a third longer
        "encrypted form": forger.good + ".AAAA.AAAA",
        "no dots": "x" * 40,
    }
