"""The audit service in this process, over a real database, a real bus and gRPC."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from slipway.audit.v1 import audit_pb2 as pb
from slipway.audit.v1 import audit_pb2_grpc
from slipway_audit.checkpoints import Checkpointer
from slipway_audit.consumer import EventConsumer
from slipway_audit.export import EvidenceExport
from slipway_audit.head_store import HeadStore
from slipway_audit.heads_file import HeadsFolder
from slipway_audit.key_ring import KeyRing
from slipway_audit.keys import SIGNER_FILE
from slipway_audit.proofs import Proofs
from slipway_audit.reading import AuditReader
from slipway_audit.reading_store import ReadingStore
from slipway_audit.sequencer import Sequencer
from slipway_audit.servicer import AuditServicer
from slipway_audit.store import LogStore
from slipway_chassis.bus import Bus, open_bus
from slipway_chassis.channel import connect, invoke, stream
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import Evidence
from slipway_chassis.interceptors import ServerInterceptor
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import close_pool, migrate, open_pool
from slipway_chassis.receipts import Receipts
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_evidence.note import SignerKey, VerifierKey

from audit_testing.writing import RUN, Writer, leaf

DATA_KEY = base64.b64encode(bytes(range(32))).decode()


@dataclass
class Audit:
    """Everything of a running audit service."""

    pool: asyncpg.Pool
    keys: SubjectKeys
    store: LogStore
    heads: HeadStore
    folder: Path
    checkpointer: Checkpointer
    sequencer: Sequencer
    export: EvidenceExport
    bus: Bus
    stub: Any
    signing: Any

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey.parse(self.checkpointer.verifier_key)

    async def append(self, *writers: Writer) -> None:
        for writer in writers:
            await self.store.append(writer.tenant, [leaf(one) for one in writer.messages])

    def token(self, subject: str = "carol", roles: tuple[str, ...] = ("auditor",), tenant: str = "acme") -> str:
        return self.signing.token(subject, tenant, list(roles))

    async def call(self, method: str, request: Any, token: str | None = None) -> Any:
        return await invoke(getattr(self.stub, method), request, token=token or self.token(), timeout=20)

    async def evidence(self, run_id: str = RUN, token: str | None = None) -> tuple[bytes, bool]:
        request = pb.ExportRunEvidenceRequest(run_id=run_id)
        parts = [
            part async for part in stream(self.stub.ExportRunEvidence, request, token=token or self.token(), timeout=20)
        ]
        return b"".join(part.data for part in parts), parts[0].complete


def key_ring(key: SignerKey, folder: Path) -> KeyRing:
    """The ring of a folder that holds this key, which is written there if it is not."""
    folder.mkdir(exist_ok=True)
    file = folder / SIGNER_FILE
    if not file.exists():
        file.write_text(key.encode() + "\n")
        file.chmod(0o600)
    return KeyRing(file)


@contextlib.asynccontextmanager
async def running(
    database_url: str, url: str, namespace: str, key: SignerKey, folder: Path, policy_dir: Path, signing: Any
) -> AsyncIterator[Audit]:
    """A service; several may share a database and a bus."""
    pool = await open_pool(database_url, max_size=6)
    await migrate(pool, "slipway_audit", chassis=("outbox", "subject_keys"))
    bus = await open_bus(url, namespace=namespace)
    keys = SubjectKeys(pool, DATA_KEY)
    outbox = Outbox(pool, bus, keys)
    store, heads = LogStore(pool, keys), HeadStore(pool)
    checkpointer = Checkpointer(heads, HeadsFolder(folder), key_ring(key, folder.with_name("keys")))
    receipts = Receipts(bus)

    def appended(tenant: str, event_ids: Sequence[str]) -> None:
        checkpointer.notify(tenant)
        receipts.give(event_ids)

    sequencer = Sequencer(store, appended)
    export = EvidenceExport(store, checkpointer)
    reader = AuditReader(store, ReadingStore(pool, Evidence("audit", outbox)), export, PolicyEngine(policy_dir))
    server = grpc.aio.server(interceptors=[ServerInterceptor(CallerTokenVerifier(signing.jwks_file))])
    servicer = AuditServicer(reader, Proofs(store, heads), checkpointer)
    audit_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = connect(f"127.0.0.1:{port}")
    consumer = EventConsumer(bus, sequencer, receipts, max_deliveries=2)
    loops = (sequencer.run, consumer.run, checkpointer.run, outbox.relay, receipts.run)
    tasks = [asyncio.create_task(loop()) for loop in loops]
    try:
        yield Audit(
            pool, keys, store, heads, folder, checkpointer, sequencer, export, bus,
            audit_pb2_grpc.AuditServiceStub(channel), signing,
        )  # fmt: skip
    finally:
        for task in tasks:
            task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=15)
        assert not stuck, [task.get_coro() for task in stuck]
        await channel.close()
        await server.stop(None)
        await bus.close()
        await close_pool(pool)
