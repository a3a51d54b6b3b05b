"""The issuer's keys: which are used, when they are fetched, what happens when they cannot be."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from gateway_testing.forging import parts
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from slipway_gateway.oidc.jwk import VerificationKey, read_jwks
from slipway_gateway.oidc.key_set import IdentityProviderUnavailable, IssuerKeys

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
NEXT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
# Weak and foreign on purpose: these must not be used.
WEAK_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
ED_448 = ed448.Ed448PrivateKey.generate()
EC_384 = ec.generate_private_key(ec.SECP384R1())


def jwk(key: Any, kid: str, **members: Any) -> dict[str, Any]:
    algorithm: Any = ECAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = RSAAlgorithm
    elif isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        algorithm = OKPAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"} | members


class KeyServer:
    """Serves a JWKS that a test can change, and counts how often it is fetched."""

    def __init__(self) -> None:
        self.document: Any = {"keys": []}
        self.status = 200
        self.fetches = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetches += 1
                body = json.dumps(outer.document).encode()
                self.send_response(outer.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def key_server() -> Iterator[KeyServer]:
    server = KeyServer()
    server.document = {
        "keys": [
            jwk(RSA_KEY, "rsa"),
            jwk(EC_KEY, "ec"),
            jwk(ED_KEY, "ed"),
            jwk(ED_448, "ed448"),
            jwk(WEAK_KEY, "weak"),
            jwk(EC_384, "p384"),
            jwk(RSA_KEY, "for-encryption", use="enc"),
            jwk(RSA_KEY, "ps-only", alg="PS256"),
            {"kty": "oct", "kid": "symmetric", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXM", "alg": "HS256"},
            {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
            "no key at all",
        ]
    }
    yield server
    server.close()


@pytest.fixture(scope="module")
def keyed(key_server: KeyServer, other_gateway: Callable[..., Any]) -> Any:
    """A gateway whose keys come from where the configuration says."""
    return other_gateway(OIDC_JWKS_URL=key_server.url)


@pytest.fixture(scope="module")
def status(keyed: Any, issuer: Any) -> Callable[..., int]:
    claims = parts(issuer.token("alice"))[1]

    def ask(key: Any, algorithm: str, kid: str) -> int:
        token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})
        return httpx.get(f"{keyed.url}/v1/whoami", headers={"Authorization": f"Bearer {token}"}).status_code

    return ask


@pytest.mark.parametrize(
    ("key", "algorithm", "kid", "expected"),
    [
        (RSA_KEY, "RS256", "rsa", 200),
        (RSA_KEY, "PS256", "rsa", 200),
        (EC_KEY, "ES256", "ec", 200),
        (ED_KEY, "EdDSA", "ed", 200),
        (ED_448, "EdDSA", "ed448", 401),
        (ED_KEY, "EdDSA", "ec", 401),
        (RSA_KEY, "PS256", "ps-only", 200),
        (RSA_KEY, "RS256", "ps-only", 401),
        (RSA_KEY, "RS384", "rsa", 401),
        (RSA_KEY, "RS256", "ec", 401),
        (EC_KEY, "ES256", "rsa", 401),
        (WEAK_KEY, "RS256", "weak", 401),
        (EC_384, "ES384", "p384", 401),
        (RSA_KEY, "RS256", "for-encryption", 401),
        ("secret-secret-secret-secret-s", "HS256", "symmetric", 401),
    ],
)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_key_verifies_only_what_it_is_for(
    status: Callable[..., int], key: Any, algorithm: str, kid: str, expected: int
) -> None:
    assert status(key, algorithm, kid) == expected


def test_a_rotated_key_is_taken_up_with_the_first_token_that_names_it(
    status: Callable[..., int], key_server: KeyServer
) -> None:
    assert status(NEXT_KEY, "RS256", "next") == 401
    key_server.document["keys"].append(jwk(NEXT_KEY, "next"))
    fetches = key_server.fetches
    assert status(NEXT_KEY, "RS256", "next") == 200
    assert status(NEXT_KEY, "RS256", "next") == 200
    assert key_server.fetches == fetches + 1


def test_an_issuer_that_is_down_refuses_no_known_key_and_answers_503_for_the_rest(
    status: Callable[..., int], key_server: KeyServer
) -> None:
    assert status(RSA_KEY, "RS256", "rsa") == 200
    key_server.status = 500
    try:
        assert status(RSA_KEY, "RS256", "rsa") == 200
        assert status(RSA_KEY, "RS256", "unheard-of") == 503
        assert status(RSA_KEY, "RS256", "rsa") == 200
    finally:
        key_server.status = 200


class Clock:
    """Seconds that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def counting(keys: Mapping[str, VerificationKey]) -> tuple[Callable[[], Any], list[int]]:
    fetches: list[int] = []

    async def fetch() -> Mapping[str, VerificationKey]:
        fetches.append(1)
        await asyncio.sleep(0)
        return keys

    return fetch, fetches


async def test_waiting_callers_share_one_fetch() -> None:
    fetch, fetches = counting(read_jwks({"keys": [jwk(RSA_KEY, "a")]}))
    keys = IssuerKeys(fetch)
    found = await asyncio.gather(*(keys.find("a") for _ in range(50)))
    assert all(found)
    assert len(fetches) == 1


async def test_unknown_keys_cause_one_fetch_in_each_interval() -> None:
    fetch, fetches = counting(read_jwks({"keys": [jwk(RSA_KEY, "a")]}))
    keys = IssuerKeys(fetch, interval=0.2)
    loop = asyncio.get_running_loop()
    started = loop.time()
    while loop.time() - started < 1.0:
        await asyncio.gather(*(keys.find(f"unknown-{number}") for number in range(20)))
    assert 2 <= len(fetches) <= 7


async def test_a_withdrawn_key_stops_to_count_after_its_age() -> None:
    documents = [read_jwks({"keys": [jwk(RSA_KEY, "a")]}), read_jwks({"keys": [jwk(NEXT_KEY, "b")]})]
    clock = Clock()

    async def fetch() -> Mapping[str, VerificationKey]:
        return documents.pop(0)

    keys = IssuerKeys(fetch, interval=0, max_age=600, clock=clock)
    assert await keys.find("a")
    clock.now += 599
    assert await keys.find("a")
    assert len(documents) == 1
    clock.now += 2
    assert await keys.find("a"), "nobody waits for the refresh"
    assert await keys.find("b")
    documents.append({})
    assert await keys.find("a") is None


async def test_no_keys_at_all_is_unavailable_and_not_ready() -> None:
    async def fetch() -> Mapping[str, VerificationKey]:
        raise OSError("connection refused")

    keys = IssuerKeys(fetch, interval=0)
    with pytest.raises(IdentityProviderUnavailable):
        await keys.find("a")
    with pytest.raises(IdentityProviderUnavailable):
        await keys.check()
