"""What the check of a bearer token costs the gateway: one JSON line per figure, in microseconds of one core.

    .venv/bin/python bench/sign_in.py

Tokens come from a real Keycloak (`make servers`) and are checked by the gateway's own verifier with the realm's keys,
in this process: `cached` is a token seen within the last minute, `not_cached` one seen for the first time. The peer is
the bare verification by PyJWT: signature, issuer, audience and time, and nothing else. Rounds of both alternate; the
figures are medians over rounds.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Callable

import httpx
import jwt
from slipway_gateway.oidc.claims import ClaimRules
from slipway_gateway.oidc.discovery import key_fetcher
from slipway_gateway.oidc.key_set import IssuerKeys
from slipway_gateway.oidc.verifier import OidcVerifier
from slipway_testkit.servers.keycloak import KeycloakServer, keycloak

TOKENS = 20
ROUNDS = 30
CACHED_CALLS = 500
TARGETS = {"cached": 50.0, "not_cached": 300.0}


def tokens_of(server: KeycloakServer) -> list[str]:
    """Access tokens of one user, each different."""
    form = {"grant_type": "password", "client_id": "slipway-cli", "username": "alice", "password": "alice"}
    address = f"{server.issuer()}/protocol/openid-connect/token"
    with httpx.Client(trust_env=False, timeout=30) as web:
        return [web.post(address, data=form).raise_for_status().json()["access_token"] for _ in range(TOKENS)]


async def measure(server: KeycloakServer) -> dict[str, float]:
    """Medians, in microseconds per check."""
    tokens = tokens_of(server)
    rules = ClaimRules(server.issuer(), frozenset({"slipway"}), frozenset({"slipway-cli"}))
    async with httpx.AsyncClient(trust_env=False) as web:
        keys = IssuerKeys(key_fetcher(web, issuer=server.issuer()))
        await keys.load()
        jwks = jwt.PyJWKSet.from_dict((await web.get(f"{server.issuer()}/protocol/openid-connect/certs")).json())
        public = next(key for key in jwks.keys if key.key_id == jwt.get_unverified_header(tokens[0])["kid"])

        def bare() -> None:
            for token in tokens:
                jwt.decode(token, public, algorithms=["RS256"], issuer=server.issuer(), audience="slipway")

        found: dict[str, list[float]] = {"cached": [], "not_cached": [], "pyjwt": []}
        for _ in range(ROUNDS):
            fresh = OidcVerifier(keys, rules)
            started = time.process_time()
            for token in tokens:
                await fresh.verify(token)
            found["not_cached"].append((time.process_time() - started) / TOKENS)
            started = time.process_time()
            for number in range(CACHED_CALLS):
                await fresh.verify(tokens[number % TOKENS])
            found["cached"].append((time.process_time() - started) / CACHED_CALLS)
            found["pyjwt"].append(_seconds(bare) / TOKENS)
        await keys.close()
    return {name: statistics.median(times) * 1e6 for name, times in found.items()}


def _seconds(work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Prints the figures."""
    with keycloak() as server:
        found = asyncio.run(measure(server))
    for name, target in TARGETS.items():
        line = {
            "bench": "sign_in",
            "check": name,
            "us": round(found[name], 1),
            "target_us": target,
            "pyjwt_us": round(found["pyjwt"], 1),
            "ratio_to_pyjwt": round(found[name] / found["pyjwt"], 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
