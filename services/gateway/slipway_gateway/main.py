"""The gateway process: reads the environment and wires everything together."""

import ssl
import sys
from collections.abc import Sequence

import grpc
import httpx
from redis.asyncio import Redis
from slipway.identity.v1.identity_pb2 import DESCRIPTOR
from slipway.identity.v1.identity_pb2_grpc import add_IdentityServiceServicer_to_server
from slipway_chassis import telemetry
from slipway_chassis.bus import open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.errors import SlipwayError
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import check_answers, close_pool, open_pool
from slipway_chassis.preflight import look_before_start
from slipway_chassis.readiness import Readiness
from slipway_chassis.redis_check import check_takes_writes
from slipway_chassis.service import run, run_service, work_undisturbed
from slipway_chassis.settings import load_settings

from slipway_gateway.api_keys import ApiKeyDirectory, ApiKeys
from slipway_gateway.audit_log import AuditLog
from slipway_gateway.authentication import Authenticator
from slipway_gateway.caller_tokens import CallerTokens
from slipway_gateway.directory import PrefixedDirectories
from slipway_gateway.directory_urls import open_directory
from slipway_gateway.http.app import create_app
from slipway_gateway.http.calls import Peers, Targets
from slipway_gateway.http.gateway import Gateway, HttpLimits
from slipway_gateway.http.server import HttpServer, listen
from slipway_gateway.keys import KeyRing
from slipway_gateway.migrate import SCHEMA
from slipway_gateway.oidc.claims import ClaimRules
from slipway_gateway.oidc.discovery import key_fetcher
from slipway_gateway.oidc.key_set import IssuerKeys
from slipway_gateway.oidc.verifier import OidcVerifier
from slipway_gateway.principal import API_KEY_PREFIX
from slipway_gateway.rate_limits import RatePolicy
from slipway_gateway.rate_store import RedisRateLimiter
from slipway_gateway.run_grants import RunGrants
from slipway_gateway.servicer import PUBLIC_METHODS, IdentityServicer
from slipway_gateway.settings import GatewaySettings
from slipway_gateway.store import PostgresApiKeyStore, PostgresRevocations


async def serve(settings: GatewaySettings) -> None:
    """Runs the gateway until it is told to stop. Raises OSError, ValueError for what cannot be used."""
    telemetry.setup("gateway", settings.otlp_endpoint, settings.log_level)
    listener = listen(settings.http_listen)
    keys = KeyRing(settings.signing_key_file, settings.caller_jwks_file)
    secrets = settings.read_service_secrets()
    policies = PolicyEngine(settings.policy_dir)
    web = httpx.AsyncClient(limits=httpx.Limits(max_connections=16), trust_env=False, verify=_trust(settings))
    issuer_keys = IssuerKeys(key_fetcher(web, issuer=settings.oidc_issuer, jwks_url=settings.oidc_jwks_url))
    await issuer_keys.load()
    outside = await open_directory(settings, web)

    await look_before_start(settings, SCHEMA, bus=settings.bus_url, redis=settings.redis_url)
    pool = await open_pool(settings.database_url.get_secret_value())
    await SCHEMA.prepare(pool, settings.migrations)
    bus = await open_bus(settings.bus_url.get_secret_value())
    redis = Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=0.25, socket_connect_timeout=0.25)
    outbox = Outbox(pool, bus, SubjectKeys(pool, settings.data_key.get_secret_value()))

    key_store = PostgresApiKeyStore(pool, AuditLog(Evidence("gateway", outbox)))
    directory = PrefixedDirectories({API_KEY_PREFIX: ApiKeyDirectory(key_store)}, outside)
    tokens = CallerTokens(keys)
    grants = RunGrants(keys, tokens, directory, PostgresRevocations(pool), lifetime=settings.grant_lifetime)
    api_keys = ApiKeys(key_store, policies, settings.api_key_roles)

    async def database_answers() -> None:
        await check_answers(pool)

    async def redis_answers() -> None:
        await check_takes_writes(redis, "slipway:gateway:ready")

    peers = Peers(_targets(settings), settings.tls)
    readiness = Readiness(
        {"postgres": database_answers, "identity-provider": issuer_keys.check},
        {"redis": redis_answers, "bus": bus.ping, **peers.checks()},
    )
    gateway = Gateway(
        authenticator=Authenticator(OidcVerifier(issuer_keys, _rules(settings)), api_keys),
        api_keys=api_keys,
        tokens=tokens,
        grants=grants,
        directory=directory,
        limiter=RedisRateLimiter(redis, RatePolicy(settings.rate_per_minute, settings.rate_burst)),
        peers=peers,
        limits=HttpLimits(
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            max_wait=settings.max_wait,
            max_stream=settings.max_stream,
            heartbeat=settings.heartbeat,
        ),
        allowed_hosts=settings.allowed_hosts,
        readiness=readiness,
        issuer=settings.oidc_issuer,
        public_url=settings.public_url,
    )
    http = HttpServer(
        create_app(gateway),
        listener,
        grace=settings.shutdown_grace,
        stopping=gateway.stopping,
        certificates=settings.http_tls,
    )

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_IdentityServiceServicer_to_server(IdentityServicer(secrets, tokens, grants, directory), server)
        return [DESCRIPTOR.services_by_name["IdentityService"].full_name]

    async def close() -> None:
        await gateway.peers.close()
        await issuer_keys.close()
        await web.aclose()
        await redis.aclose()
        await bus.close()
        await close_pool(pool)

    await run_service(
        "gateway",
        settings,
        servicers=register,
        background={"http": http.run, "outbox": outbox.relay},
        readiness=readiness,
        public_methods=PUBLIC_METHODS,
        on_stop=close,
    )


def _rules(settings: GatewaySettings) -> ClaimRules:
    return ClaimRules(
        issuer=settings.oidc_issuer,
        audiences=settings.oidc_audience,
        clients=settings.oidc_azp,
        subject_claim=settings.oidc_subject_claim,
        tenant_claim=settings.oidc_tenant_claim,
        roles_claim=settings.oidc_roles_claim,
        groups_claim=settings.oidc_groups_claim,
        client_claim=settings.oidc_client_claim,
    )


def _trust(settings: GatewaySettings) -> ssl.SSLContext:
    """Certificates that identity providers are known by: those that everybody trusts, or of one authority."""
    try:
        return (
            ssl.create_default_context(cafile=settings.oidc_ca_file)
            if settings.oidc_ca_file
            else httpx.create_ssl_context()
        )
    except ssl.SSLError:
        raise ValueError("SLIPWAY_GATEWAY_OIDC_CA_FILE holds no certificate in PEM") from None


def _targets(settings: GatewaySettings) -> Targets:
    return Targets(
        router=settings.router_target,
        orchestrator=settings.orchestrator_target,
        memory=settings.memory_target,
        tools=settings.tools_target,
        audit=settings.audit_target,
    )


def main() -> int:
    """Entry point: 0 after a stop, 2 for settings or files that cannot be used."""
    settings = load_settings(GatewaySettings)
    work_undisturbed()
    try:
        run(serve(settings))
    except (OSError, ValueError, SlipwayError) as error:
        sys.stderr.write(f"slipway: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
