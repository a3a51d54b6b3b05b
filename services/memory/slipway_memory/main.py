"""Entry point: `python -m slipway_memory.main`. Reads the environment and wires the service together."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import grpc
from redis.asyncio import Redis
from slipway.memory.v1 import memory_pb2, memory_pb2_grpc, sources_pb2, sources_pb2_grpc
from slipway_chassis import retention, telemetry
from slipway_chassis.bus import open_bus
from slipway_chassis.channel import connect
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.effects import EffectLedger
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import check_answers, close_pool, open_pool
from slipway_chassis.preflight import look_before_start
from slipway_chassis.readiness import Readiness
from slipway_chassis.redis_check import check_takes_writes
from slipway_chassis.service import run, run_service
from slipway_chassis.settings import load_settings
from slipway_chassis.tokens import ServiceTokenSource
from slipway_chassis.unusable import SettingUnusable

from slipway_memory.collections import Collections
from slipway_memory.documents import Documents
from slipway_memory.file_store import FileStore
from slipway_memory.files import Files
from slipway_memory.files_servicer import FilesServicer
from slipway_memory.indexing import Indexer
from slipway_memory.indexing_store import IndexingStore
from slipway_memory.ingest_topic import GROUP, TOPIC
from slipway_memory.knowledge_servicer import KnowledgeServicer
from slipway_memory.migrate import SCHEMA
from slipway_memory.objects import open_objects
from slipway_memory.orphan_objects import OrphanObjects
from slipway_memory.parsing.limits import ParseLimits
from slipway_memory.parsing.sandbox import DocumentParser
from slipway_memory.router_embedder import RouterEmbedder
from slipway_memory.search import Search
from slipway_memory.session_store import RedisSessionStore
from slipway_memory.sessions import SessionLimits, Sessions
from slipway_memory.sessions_servicer import SessionsServicer
from slipway_memory.settings import MemorySettings
from slipway_memory.sources.databases import Databases
from slipway_memory.sources.opened import governed_sources
from slipway_memory.store import KnowledgeStore
from slipway_memory.sweeper import Sweeper
from slipway_memory.transactions import Database
from slipway_memory.vectors.opening import check_owner, open_index

T = TypeVar("T")

_MIB = 1024 * 1024
_SERVICES = ("KnowledgeService", "FilesService", "SessionsService")


async def serve(settings: MemorySettings) -> None:  # noqa: PLR0915 - wiring, line by line
    """Serve until SIGTERM."""
    telemetry.setup("memory", settings.otlp_endpoint, settings.log_level)
    objects = await _usable("OBJECTS_URL", open_objects(settings.objects_url.get_secret_value()))
    await look_before_start(settings, SCHEMA, bus=settings.bus_url, redis=settings.redis_url, sessions=True)
    pool = await open_pool(settings.database_url.get_secret_value())
    bus = await open_bus(settings.bus_url.get_secret_value())
    keys = SubjectKeys(pool, settings.data_key.get_secret_value())
    outbox = Outbox(pool, bus, keys)
    database = Database(pool, outbox, Evidence("memory", outbox))
    opening = open_index(settings.vectors_url.get_secret_value(), database, lease_seconds=settings.indexing_lease)
    index = await _usable("VECTORS_URL", opening)
    await SCHEMA.prepare(pool, settings.migrations)
    await _usable("VECTORS_URL", check_owner(index))
    ledger = EffectLedger(pool, keys)
    policy = PolicyEngine(settings.policy_dir)
    router = connect(settings.router_target, settings.tls)
    tokens = ServiceTokenSource(
        settings.identity_target, "memory", settings.service_secret.get_secret_value(), settings.tls
    )
    embedder = RouterEmbedder(router, tokens, timeout=settings.embedding_timeout)
    redis: Redis = Redis.from_url(
        settings.redis_url.get_secret_value(),
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
    )
    orphans = OrphanObjects(database, objects)
    parser = DocumentParser(
        ParseLimits(settings.parse_seconds, settings.parse_memory_mib * _MIB, settings.document_text),
        concurrency=settings.parse_concurrency,
    )
    collections = Collections(KnowledgeStore(database), policy, embedder)
    documents = Documents(KnowledgeStore(database), collections, parser, objects, orphans)
    search = Search(database, collections, index, embedder, ledger)
    indexing = IndexingStore(database, lease_seconds=settings.indexing_lease)
    indexer = Indexer(indexing, index, embedder, patience=settings.indexing_patience)
    files = Files(FileStore(database), policy, objects, orphans, quota_bytes=settings.file_quota_bytes)
    sessions = Sessions(RedisSessionStore(redis), policy, _session_limits(settings))
    databases = Databases(connections=settings.source_queries)
    governed = governed_sources(settings, database, policy, databases)
    sweeper = Sweeper(indexing, index, FileStore(database), orphans, interval=settings.sweep_interval)

    def servicers(server: grpc.aio.Server) -> list[str]:
        memory_pb2_grpc.add_KnowledgeServiceServicer_to_server(
            KnowledgeServicer(collections, documents, search, document_bytes=settings.document_bytes), server
        )
        memory_pb2_grpc.add_FilesServiceServicer_to_server(FilesServicer(files, file_bytes=settings.file_bytes), server)
        memory_pb2_grpc.add_SessionsServiceServicer_to_server(SessionsServicer(sessions), server)
        sources_pb2_grpc.add_SourcesServiceServicer_to_server(governed, server)
        served = [sources_pb2.DESCRIPTOR.services_by_name["SourcesService"].full_name]
        return served + [memory_pb2.DESCRIPTOR.services_by_name[name].full_name for name in _SERVICES]

    async def consume() -> None:
        await bus.consume(TOPIC, GROUP, indexer.handle, concurrency=settings.indexing_concurrency)

    async def prune() -> None:
        await retention.sweep(pool)

    async def redis_answers() -> None:
        await check_takes_writes(redis, "slipway:memory:ready")

    async def database_answers() -> None:
        await check_answers(pool)

    checks = {"objects": objects.check, "redis": redis_answers, "bus": bus.ping}
    if settings.vectors_url.get_secret_value():
        checks["weaviate"] = index.check

    async def stop() -> None:
        await ledger.drain(settings.shutdown_grace)
        await databases.close()
        await tokens.close()
        await router.close()
        await redis.aclose()
        await bus.close()
        await index.close()
        await close_pool(pool)

    await run_service(
        "memory",
        settings,
        servicers=servicers,
        background={"outbox-relay": outbox.relay, "indexer": consume, "sweeper": sweeper.run, "retention": prune},
        # Without Redis sessions answer UNAVAILABLE, without the object store uploads and downloads do, without Weaviate
        # searches do; without it or the bus documents wait to be indexed: all else goes on.
        readiness=Readiness({"postgres": database_answers}, checks),
        on_stop=stop,
    )


def _session_limits(settings: MemorySettings) -> SessionLimits:
    return SessionLimits(settings.session_message_characters, settings.session_messages, settings.session_bytes)


async def _usable(setting: str, opening: Awaitable[T]) -> T:
    """What was opened; a ValueError is about the setting."""
    try:
        return await opening
    except ValueError as error:
        raise SettingUnusable(f"SLIPWAY_MEMORY_{setting}: {error}") from error


def main() -> None:
    """Run the memory service; exit code 2 when settings can't be used."""
    run(serve(load_settings(MemorySettings)))


if __name__ == "__main__":
    main()
