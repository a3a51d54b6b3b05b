"""Entry point: `python -m slipway_audit.main`. Reads the environment and wires the service together."""

import sys
from collections.abc import Sequence

import grpc
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway_chassis import telemetry
from slipway_chassis.bus import open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import check_answers, close_pool, open_pool
from slipway_chassis.preflight import look_before_start
from slipway_chassis.readiness import Readiness
from slipway_chassis.receipts import Receipts
from slipway_chassis.service import run, run_service
from slipway_chassis.settings import load_settings

from slipway_audit.checkpoints import Checkpointer
from slipway_audit.consumer import EventConsumer
from slipway_audit.export import EvidenceExport
from slipway_audit.head_store import HeadStore
from slipway_audit.heads_file import HeadsFolder
from slipway_audit.key_ring import KeyRing
from slipway_audit.keys import KeyFileInvalid
from slipway_audit.migrate import SCHEMA
from slipway_audit.proofs import Proofs
from slipway_audit.reading import AuditReader
from slipway_audit.reading_store import ReadingStore
from slipway_audit.sequencer import Sequencer
from slipway_audit.servicer import AuditServicer
from slipway_audit.settings import AuditSettings
from slipway_audit.store import LogStore


async def serve(settings: AuditSettings, log_keys: KeyRing, heads: HeadsFolder) -> None:
    """Serve until SIGTERM."""
    telemetry.setup("audit", settings.otlp_endpoint, settings.log_level)
    await look_before_start(settings, SCHEMA, bus=settings.bus_url)
    database = await open_pool(settings.database_url.get_secret_value())
    await SCHEMA.prepare(database, settings.migrations)
    bus = await open_bus(settings.bus_url.get_secret_value())
    keys = SubjectKeys(database, settings.data_key.get_secret_value())
    outbox = Outbox(database, bus, keys)
    policy = PolicyEngine(settings.policy_dir)
    store, head_store = LogStore(database, keys), HeadStore(database)
    checkpointer = Checkpointer(head_store, heads, log_keys)
    receipts = Receipts(bus)

    def appended(tenant: str, event_ids: Sequence[str]) -> None:
        checkpointer.notify(tenant)
        receipts.give(event_ids)

    sequencer = Sequencer(store, appended)
    consumer = EventConsumer(bus, sequencer, receipts)
    export = EvidenceExport(store, checkpointer)
    reader = AuditReader(store, ReadingStore(database, Evidence("audit", outbox)), export, policy)

    def servicers(server: grpc.aio.Server) -> list[str]:
        servicer = AuditServicer(reader, Proofs(store, head_store), checkpointer)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)
        return [audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name]

    async def database_answers() -> None:
        await check_answers(database)

    async def stop() -> None:
        await bus.close()
        await close_pool(database)

    await run_service(
        "audit",
        settings,
        servicers=servicers,
        background={
            "sequencer": sequencer.run,
            "events": consumer.run,
            "receipts": receipts.run,
            "checkpoints": checkpointer.run,
            "outbox-relay": outbox.relay,
        },
        readiness=Readiness({"postgres": database_answers}, {"bus": bus.ping}),
        on_stop=stop,
    )


def main() -> None:
    """The process."""
    settings = load_settings(AuditSettings)
    try:
        log_keys, heads = KeyRing(settings.signing_key_file), HeadsFolder(settings.heads_dir)
    except KeyFileInvalid as error:
        sys.stderr.write(f"slipway: SLIPWAY_AUDIT_SIGNING_KEY_FILE: {error}\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"slipway: SLIPWAY_AUDIT_HEADS_DIR: {error}\n")
        sys.exit(2)
    run(serve(settings, log_keys, heads))


if __name__ == "__main__":
    main()
