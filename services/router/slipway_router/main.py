"""Entry point: `python -m slipway_router.main`. Reads the environment and wires the service together."""

import os
import sys
from functools import partial

import grpc
from redis.asyncio import Redis
from slipway.router.v1 import router_pb2, router_pb2_grpc
from slipway_chassis import telemetry
from slipway_chassis.bus import open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.effects import EffectLedger
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import check_answers, close_pool, open_pool
from slipway_chassis.preflight import look_before_start
from slipway_chassis.readiness import Readiness
from slipway_chassis.redis_check import check_takes_writes
from slipway_chassis.retention import sweep
from slipway_chassis.service import run, run_service, work_undisturbed
from slipway_chassis.settings import load_settings

from slipway_router.accounts import Accounts
from slipway_router.answer_cache import AnswerCache
from slipway_router.books import Books
from slipway_router.books_store import PostgresBooks
from slipway_router.budget_store import BudgetStore
from slipway_router.calls import ModelCalls
from slipway_router.catalogue_file import CatalogueInvalid
from slipway_router.catalogue_resolve import References
from slipway_router.catalogue_source import CatalogueSource
from slipway_router.comparison import Comparisons
from slipway_router.failover import Failover
from slipway_router.litellm_bridge.process import LitellmBridge
from slipway_router.measurements import Measurements
from slipway_router.migrate import SCHEMA
from slipway_router.orphans import Orphans
from slipway_router.performance_exchange import PerformanceExchange
from slipway_router.permissions import ModelPermissions
from slipway_router.recordings import Recorder
from slipway_router.recordings_store import PostgresRecordings
from slipway_router.secrets_file import SecretsInvalid
from slipway_router.servicer import RouterServicer
from slipway_router.settings import RouterSettings
from slipway_router.shared_health import SharedHealth
from slipway_router.shared_throttle import SharedThrottle
from slipway_router.sticky import StickySessions
from slipway_router.store import UsageStore
from slipway_router.wire.pool import WirePool


async def serve(settings: RouterSettings) -> None:
    """Serve until SIGTERM. Raises CatalogueInvalid or SecretsInvalid when there is nothing to start with."""
    telemetry.setup("router", settings.otlp_endpoint, settings.log_level)
    bridge = LitellmBridge(settings.litellm_python)
    wires = WirePool(bridge)
    catalogue = CatalogueSource(
        settings.catalogue_file,
        settings.secrets_file,
        References(
            settings={"local_models_url": settings.local_models_url},
            secrets={},
            environment=os.environ,
            litellm=settings.litellm_python is not None,
        ),
    )
    bridge.need(catalogue.current())
    await look_before_start(settings, SCHEMA, bus=settings.bus_url, redis=settings.redis_url)
    database = await open_pool(settings.database_url.get_secret_value())
    await SCHEMA.prepare(database, settings.migrations)
    bus = await open_bus(settings.bus_url.get_secret_value())
    redis: Redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    )
    keys = SubjectKeys(database, settings.data_key.get_secret_value())
    outbox = Outbox(database, bus, keys, gather=0.05)
    books_store = PostgresBooks(database, Evidence("router", outbox))
    books = Books(books_store, Evidence("router", outbox))
    orphans = Orphans(database, books_store, Evidence("router", outbox), dead_after=settings.orphan_seconds)
    await orphans.announce()
    store = UsageStore(database, books.flush)
    budgets = BudgetStore(database, Evidence("router", outbox))
    ledger = EffectLedger(database, keys)
    policy = PolicyEngine(settings.policy_dir)
    health = SharedHealth(redis)
    measurements = Measurements()
    failover = Failover(health, books, SharedThrottle(redis), measurements)
    accounts = Accounts(books, failover)
    recordings = PostgresRecordings(database, keys, books.flush)
    recorder = Recorder(recordings)
    calls = ModelCalls(
        catalogue=catalogue.current,
        permissions=ModelPermissions(policy),
        measurements=measurements,
        failover=failover,
        sticky=StickySessions(redis),
        pool=wires,
        accounts=accounts,
        ledger=ledger,
        recorder=recorder,
        cache=AnswerCache(redis, keys, database, lambda: catalogue.current().cache_seconds),
    )

    def servicers(server: grpc.aio.Server) -> list[str]:
        servicer = RouterServicer(
            calls, Comparisons(calls, recordings), store, catalogue, health, measurements, policy, budgets
        )
        router_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
        return [router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name]

    async def redis_answers() -> None:
        await check_takes_writes(redis, "slipway:router:ready")

    async def database_answers() -> None:
        await check_answers(database)

    async def stop() -> None:
        await ledger.drain(settings.shutdown_grace)
        await accounts.drain()
        await recorder.drain()
        await books_store.close()
        await wires.aclose()
        await redis.aclose()
        await bus.close()
        await close_pool(database)

    await run_service(
        "router",
        settings,
        servicers=servicers,
        background={
            "outbox-relay": outbox.relay,
            "orphans": orphans.watch,
            "catalogue-watch": partial(catalogue.watch, bridge.prepare, wires.keep_those_of),
            "litellm": bridge.run,
            "recordings": recordings.sweep,
            "performance-exchange": PerformanceExchange(redis, measurements).run,
            "retention": partial(sweep, database),
        },
        readiness=Readiness(
            {"postgres": database_answers, "litellm": bridge.ready}, {"redis": redis_answers, "bus": bus.ping}
        ),
        on_stop=stop,
    )


def main() -> None:
    """Run the router; exit code 2 when settings, catalogue or secrets cannot be used."""
    settings = load_settings(RouterSettings)
    work_undisturbed()
    try:
        run(serve(settings))
    except (CatalogueInvalid, SecretsInvalid) as error:
        sys.stderr.write(f"slipway: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
