"""The audit service in this process, over a real database, a real bus and gRPC."""

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from slipway.audit.v1 import audit_pb2 as pb
from slipway.audit.v1 import audit_pb2_grpc
from slipway_audit.checkpoints import Checkpointer
from slipway_audit.consumer import EventConsumer
from slipway_audit.export import EvidenceExport
from slipway_audit.head_store import HeadStore
from slipway_audit.heads_file import HeadsFolder
from slipway_audit.leaf import Leaf, parse_leaf
from slipway_audit.proofs import Proofs
from slipway_audit.reading import AuditReader
from slipway_audit.sequencer import Sequencer
from slipway_audit.servicer import AuditServicer
from slipway_audit.store import LogStore
from slipway_chassis.bus import Bus, Message, open_bus
from slipway_chassis.caller import Caller
from slipway_chassis.channel import connect, invoke, stream
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import GENESIS, Evidence, SealedEvent
from slipway_chassis.interceptors import ServerInterceptor
from slipway_chassis.jcs import canonical_json, digest
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import migrate, open_pool
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_evidence.note import SignerKey, VerifierKey

DATA_KEY = base64.b64encode(bytes(range(32))).decode()
RUN = "run_01jdqxf2k0e3vr6m5t8w9y2b4c"


def caller(subject: str = "alice", tenant: str = "acme", run_id: str | None = RUN) -> Caller:
    return Caller(
        subject=subject,
        tenant=tenant,
        kind="user",
        roles=frozenset({"operator"}),
        groups=frozenset(),
        act="refund-desk@3",
        run_id=run_id,
        token_id="t1",
        expires_at=datetime.now(UTC),
    )


class Writer:
    """Seals events as the services do, and hands them on as messages of the bus."""

    def __init__(self, tenant: str = "acme", run_id: str = RUN, subject: str = "alice") -> None:
        self.tenant, self.run_id, self.subject = tenant, run_id, subject
        self.evidence = Evidence("orchestrator", None)  # type: ignore[arg-type]
        self.messages: list[Message] = []
        self._prev, self._seq = GENESIS, 0

    def event(self, event_type: str, data: dict[str, Any], **more: Any) -> SealedEvent:
        sealed = self.evidence.seal(
            event_type,
            caller=caller(self.subject, self.tenant),
            subject=more.pop("subject", self.subject),
            resource="test/1",
            data=data,
            time=datetime.now(UTC),
            run_id=self.run_id,
            trace_id="0" * 31 + "1",
            **more,
        )
        self.messages.append(message(sealed))
        return sealed

    def record(self, event_type: str, **data: Any) -> dict[str, str]:
        sealed = self.event(event_type, data)
        return {"event_id": sealed.event_id, "commitment": sealed.commitment}

    def journal(self, kind: str, **payload: Any) -> SealedEvent:
        data = {"kind": kind, "epoch": 1, "payload": canonical_json(payload).decode()}
        if "records" in payload:
            data["records"] = payload["records"]
        self._seq += 1
        sealed = self.event("run.event", data, seq=self._seq, prev=self._prev)
        self._prev = sealed.commitment
        return sealed

    def run(self, *, end: bool = True) -> "Writer":
        self.journal("run.started", input={"message": "Grüße 😀"})
        self.journal("step.completed", output=1.5, records=[self.record("model.call", model="smollm2-135m")])
        shown = digest({"amount": 120.5})
        self.journal(
            "approval.requested",
            approval_id="apr_1",
            arguments={"amount": 120.5},
            arguments_digest=shown,
            proposer="alice",
        )
        self.journal(
            "approval.decided",
            approval_id="apr_1",
            decision="approve",
            decider="bob",
            arguments_digest=shown,
            records=[self.record("approval.decision", decision="approve")],
        )
        if end:
            self.journal("run.succeeded", output={"reply": "done"})
        return self


def message(sealed: SealedEvent, **more: Any) -> Message:
    import json

    body = {"event": sealed.canonical.decode(), "salt": sealed.salt.hex(), "commitment": sealed.commitment}
    headers = {"commitment": sealed.commitment, "event-type": sealed.type, "run-id": sealed.run_id or ""}
    return Message(sealed.event_id, "audit.events", json.dumps(body | more).encode(), sealed.tenant, headers)


def leaf(one: Message) -> Leaf:
    return parse_leaf(one.id, one.tenant, one.body, one.headers)


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


@pytest.fixture(scope="session")
def key() -> SignerKey:
    return SignerKey.generate("slipway.dev/test")


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
    checkpointer = Checkpointer(heads, HeadsFolder(folder), key)
    sequencer = Sequencer(store, checkpointer.notify)
    export = EvidenceExport(store, checkpointer)
    reader = AuditReader(pool, store, export, PolicyEngine(policy_dir), Evidence("audit", outbox))
    server = grpc.aio.server(interceptors=[ServerInterceptor(CallerTokenVerifier(signing.jwks_file))])
    servicer = AuditServicer(reader, Proofs(store, heads), checkpointer)
    audit_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = connect(f"127.0.0.1:{port}")
    consumer = EventConsumer(bus, sequencer, max_deliveries=2)
    loops = (sequencer.run, consumer.run, checkpointer.run, outbox.relay)
    tasks = [asyncio.create_task(loop()) for loop in loops]
    try:
        yield Audit(
            pool, keys, store, heads, folder, checkpointer, sequencer, export, bus,
            audit_pb2_grpc.AuditServiceStub(channel), signing,
        )  # fmt: skip
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await channel.close()
        await server.stop(None)
        await bus.close()
        await pool.close()


@pytest.fixture
async def audit(
    database_url: str, valkey_url: str, key: SignerKey, tmp_path: Path, policy_dir: Path, signing: Any
) -> AsyncIterator[Audit]:
    namespace = f"audit{os.urandom(4).hex()}"
    async with running(database_url, valkey_url, namespace, key, tmp_path / "heads", policy_dir, signing) as service:
        yield service


@pytest.fixture
async def audit_on_bus(
    database_url: str, bus_url: str, key: SignerKey, tmp_path: Path, policy_dir: Path, signing: Any
) -> AsyncIterator[Audit]:
    """The same over each adapter of the bus."""
    namespace = f"audit{os.urandom(4).hex()}"
    async with running(database_url, bus_url, namespace, key, tmp_path / "heads", policy_dir, signing) as service:
        yield service
