"""Internal caller tokens: what is accepted, and all that is not."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp
from slipway.identity.v1 import identity_pb2
from slipway_chassis import tokens
from slipway_chassis.errors import ErrorKind, RemoteError, Unavailable
from slipway_chassis.tokens import CallerTokenVerifier, InvalidToken, ServiceTokenSource
from slipway_testkit.signing import SigningAuthority


def signed(signing: SigningAuthority, claims: dict[str, Any], header: dict[str, Any]) -> str:
    """A well-signed token of any content: libraries refuse to write what attackers do.

    `...` leaves a claim out; a function gets the time.
    """
    key = signing._keys[signing._kid]
    claims = {name: value(int(time.time())) if callable(value) else value for name, value in claims.items()}
    payload = {**jwt.decode(signing.token(), options={"verify_signature": False}), **claims}
    head = {"alg": "EdDSA", "kid": signing._kid, "typ": tokens.TOKEN_TYPE, **header}
    parts = [json.dumps({k: v for k, v in part.items() if v is not ...}).encode() for part in (head, payload)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (text + b"." + base64.urlsafe_b64encode(key.sign(text)).rstrip(b"=")).decode()


def test_the_forger_of_these_tests_can_write_a_good_token(
    verifier: CallerTokenVerifier, signing: SigningAuthority
) -> None:
    assert verifier.verify(signed(signing, {}, {})).subject == "alice"


@pytest.fixture
def verifier(signing: SigningAuthority) -> CallerTokenVerifier:
    return CallerTokenVerifier(signing.jwks_file)


def test_all_claims_reach_the_caller(verifier: CallerTokenVerifier, signing: SigningAuthority) -> None:
    token = signing.token(
        "alice", "acme", ["developer"], groups=["eu"], act="refund-desk@3", run_id="run_1", name="Alice", jti="j1"
    )
    caller = verifier.verify(token)
    assert (caller.subject, caller.tenant, caller.kind, caller.name) == ("alice", "acme", "user", "Alice")
    assert (caller.roles, caller.groups) == ({"developer"}, {"eu"})
    assert (caller.act, caller.run_id, caller.token_id) == ("refund-desk@3", "run_1", "j1")
    assert 290 < caller.expires_at.timestamp() - time.time() <= 300


def test_a_service_principal_needs_no_tenant(verifier: CallerTokenVerifier, signing: SigningAuthority) -> None:
    caller = verifier.verify(signing.service_token("audit"))
    assert (caller.subject, caller.kind, caller.tenant, caller.act) == ("service:audit", "service", "", None)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "someone-else"},
        {"iss": ["slipway-gateway"]},
        {"aud": "account"},
        {"aud": ["slipway-internal"]},
        {"aud": ["slipway-internal", "account"]},
        {"sub": ""},
        {"sub": 7},
        {"sub": None},
        {"sub": "service:audit"},
        {"tenant": ""},
        {"tenant": 7},
        {"kind": "service"},
        {"kind": "admin"},
        {"kind": None},
        {"roles": "platform-admin"},
        {"roles": [1]},
        {"groups": {"a": 1}},
        {"act": 3},
        {"jti": ""},
        {"exp": lambda now: str(now + 1000)},
        {"exp": True},
        {"exp": None},
        {"exp": 1e300},
        {"exp": lambda now: now - 6},
        {"nbf": lambda now: str(now - 10)},
        {"nbf": lambda now: now + 60},
        {"nbf": None},
        {"iat": "now"},
    ],
)
def test_wrong_claims_are_refused(
    verifier: CallerTokenVerifier, signing: SigningAuthority, claims: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken) as refused:
        verifier.verify(signed(signing, claims, {}))
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED
    # Nothing that helps to find out what would be accepted.
    assert str(refused.value) == "caller token is not valid"


@pytest.mark.parametrize("missing", ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "kind", "tenant"])
def test_missing_claims_are_refused(signing: SigningAuthority, verifier: CallerTokenVerifier, missing: str) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(signed(signing, {missing: ...}, {}))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"typ": "at+jwt"},
        {"kid": "unknown"},
        {"kid": None},
        {"kid": ...},
        {"alg": "none"},
        {"crit": ["exp"]},
    ],
    ids=str,
)
def test_wrong_headers_are_refused(
    verifier: CallerTokenVerifier, signing: SigningAuthority, header: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken):
        verifier.verify(signed(signing, {}, header))


def test_other_algorithms_and_keys_are_refused(verifier: CallerTokenVerifier, signing: SigningAuthority) -> None:
    claims = jwt.decode(signing.token(), options={"verify_signature": False})
    headers = {"kid": signing._kid, "typ": tokens.TOKEN_TYPE}
    public = json.loads(signing.jwks_file.read_text())["keys"][0]["x"]
    forged = [
        jwt.encode(claims, None, "none", headers),
        jwt.encode(claims, base64.urlsafe_b64decode(public + "=="), "HS256", headers),
        jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256", headers),
        jwt.encode(claims, ed448.Ed448PrivateKey.generate(), "EdDSA", headers),
        jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers),
    ]
    for token in forged:
        with pytest.raises(InvalidToken):
            verifier.verify(token)


def test_a_token_has_one_spelling_only(verifier: CallerTokenVerifier, signing: SigningAuthority) -> None:
    token = signing.token()
    head, body, signature = token.split(".")
    flipped = "A" if body[5] != "A" else "B"
    for other in (
        token + "=",
        token + "==",
        token + " ",
        " " + token,
        token.replace(".", "..", 1),
        f"{head}.{body[:5]}{flipped}{body[6:]}.{signature}",
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.",
        "",
        "ü.ü.ü",
    ):
        with pytest.raises(InvalidToken):
            verifier.verify(other)
    assert verifier.verify(token).subject == "alice"


def test_a_verified_token_still_expires(
    verifier: CallerTokenVerifier, signing: SigningAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signing.token(lifetime=60)
    verifier.verify(token)
    now = time.time()
    monkeypatch.setattr(tokens.time, "time", lambda: now + 66)
    with pytest.raises(InvalidToken):
        verifier.verify(token)


def test_new_keys_are_taken_up_and_removed_ones_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = SigningAuthority(tmp_path)
    verifier = CallerTokenVerifier(authority.jwks_file)
    clock = time.monotonic()
    monkeypatch.setattr(tokens.time, "monotonic", lambda: clock)
    old = authority.token()
    verifier.verify(old)
    authority.rotate()
    new = authority.token()
    # An unknown kid is looked for at once: a rotated key signs at once, too.
    verifier.verify(new)
    verifier.verify(old)
    document = json.loads(authority.jwks_file.read_text())
    document["keys"] = [key for key in document["keys"] if key["kid"] == authority._kid]
    authority.jwks_file.write_text(json.dumps(document))
    clock += 5.1
    with pytest.raises(InvalidToken):
        verifier.verify(old)
    verifier.verify(new)


@pytest.mark.parametrize("content", ["", "{}", '{"keys": []}', '{"keys": [{"kty": "OKP", "crv": "Ed25519"}]}', "[1]"])
def test_a_broken_key_file_is_refused_and_the_old_keys_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    authority = SigningAuthority(tmp_path)
    verifier = CallerTokenVerifier(authority.jwks_file)
    token = authority.token()
    authority.jwks_file.write_text(content)
    clock = time.monotonic() + 10
    monkeypatch.setattr(tokens.time, "monotonic", lambda: clock)
    assert verifier.verify(token).subject == "alice"
    with pytest.raises(ValueError):  # noqa: PT011 - JSON errors are ValueErrors of another type
        CallerTokenVerifier(authority.jwks_file)


class Issuer:
    """IssueServiceToken that counts; `lifetime` is of the tokens it gives."""

    def __init__(self) -> None:
        self.issued: list[tuple[str, str, str]] = []
        self.lifetime = 300.0
        self.error: Exception | None = None

    async def __call__(self, request: Any) -> identity_pb2.IssueServiceTokenResponse:
        if self.error is not None:
            raise self.error
        self.issued.append((request.service, request.secret, request.tenant))
        ends = Timestamp()
        ends.FromNanoseconds(int((time.time() + self.lifetime) * 1e9))
        return identity_pb2.IssueServiceTokenResponse(token=f"t{len(self.issued)}", expire_time=ends)


async def test_a_service_token_is_asked_for_once_per_tenant(service: Any) -> None:
    issuer = service.identity_servicer.issue = Issuer()
    source = ServiceTokenSource(service.target, "audit", "s3cret")
    assert set(await asyncio.gather(*(source.token() for _ in range(10)))) == {"t1"}
    assert await source.token("acme") == "t2"
    assert await source.token() == "t1"
    assert issuer.issued == [("audit", "s3cret", ""), ("audit", "s3cret", "acme")]
    await source.close()


async def test_a_service_token_is_renewed_a_minute_before_it_ends(service: Any) -> None:
    issuer = service.identity_servicer.issue = Issuer()
    issuer.lifetime = 59
    source = ServiceTokenSource(service.target, "audit", "s3cret")
    assert [await source.token(), await source.token()] == ["t1", "t2"]
    await source.close()


async def test_a_token_that_still_lives_bridges_an_outage_of_identity(service: Any) -> None:
    issuer = service.identity_servicer.issue = Issuer()
    issuer.lifetime = 30
    source = ServiceTokenSource(service.target, "audit", "s3cret")
    await source.token()
    issuer.error = Unavailable("down")
    assert await source.token() == "t1"
    with pytest.raises(RemoteError):
        await source.token("acme")
    await source.close()


async def test_identity_that_is_still_starting_is_waited_for(
    serving: Any, free_port: Callable[[], int], eventually: Callable[..., Awaitable[object]]
) -> None:
    port = free_port()
    source = ServiceTokenSource(f"127.0.0.1:{port}", "audit", "s3cret")
    asked = asyncio.create_task(source.token())
    await asyncio.sleep(0)
    async with serving(port) as running:
        running.identity_servicer.issue = Issuer()
        assert await asked == "t1"
    await source.close()
