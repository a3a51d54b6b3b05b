"""A real tools process on real servers, a small memory service, and a small HTTP server for it to call."""

import asyncio
import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from slipway.effects.v1 import effects_pb2
from slipway.memory.v1 import memory_pb2, memory_pb2_grpc, sources_pb2_grpc
from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis.bus import Message, open_bus
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import NotFound, ResourceExhausted
from slipway_chassis.grpc_errors import DETAILS_KEY, to_status
from slipway_chassis.ids import new_id
from slipway_chassis.tokens import CallerTokenVerifier
from slipway_testkit.warm import WarmPopen, WarmProgram

# Test folders are no packages here: the tests' own modules are found beside this file.
sys.path.insert(0, str(Path(__file__).parent))

from tools_testing.sources import Sales

SECRET = "Bearer s3cr3t-7f1c9a-ledger"


@dataclass
class Request:
    """What the target received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Target:
    """A small HTTP server that keeps what it received and answers as told, by path."""

    port: int
    received: list[Request] = field(default_factory=list)
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def to(self, path: str) -> list[Request]:
        return [request for request in self.received if request.path.partition("?")[0] == path]


def answer(status: int, body: bytes = b"{}", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        own = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"content-type": "application/json", "content-length": str(len(body)), **own}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return send


@pytest.fixture(scope="session")
def say() -> Callable[..., Callable[[BaseHTTPRequestHandler], None]]:
    """Makes an answer of the target: status, body, headers."""
    return answer


@pytest.fixture(scope="session")
def target() -> Iterator[Target]:
    state = Target(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.received.append(Request(self.command, self.path, headers, body))
            state.answers.get(self.path.partition("?")[0], answer(200, body or b"null"))(self)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


class FilesOfAlice(memory_pb2_grpc.FilesServiceServicer):
    """Files by id that only alice of acme may read."""

    def __init__(self, jwks_file: Path) -> None:
        self.files: dict[str, bytes] = {}
        self.uploads: dict[str, memory_pb2.FileDescription] = {}
        self.full = False
        self._verifier = CallerTokenVerifier(jwks_file)

    def DownloadFile(self, request: Any, context: grpc.ServicerContext) -> Iterator[memory_pb2.DownloadFileResponse]:
        bearer = str(dict(context.invocation_metadata())["authorization"])
        caller = self._verifier.verify(bearer.removeprefix("Bearer "))
        if request.file_id not in self.files or (caller.tenant, caller.subject) != ("acme", "alice"):
            status = to_status(NotFound("no such file"), "")
            context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
            context.abort(grpc.StatusCode.NOT_FOUND, "no such file")
        content = self.files[request.file_id]
        yield memory_pb2.DownloadFileResponse(file=memory_pb2.File(file_id=request.file_id))
        for start in range(0, len(content), 1 << 16):
            yield memory_pb2.DownloadFileResponse(data=content[start : start + (1 << 16)])

    def UploadFile(self, request_iterator: Any, context: grpc.ServicerContext) -> memory_pb2.UploadFileResponse:
        if self.full:
            status = to_status(ResourceExhausted("the quota of files is used up"), "")
            context.set_trailing_metadata([(DETAILS_KEY, status.SerializeToString())])
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        parts = list(request_iterator)
        content = b"".join(part.data for part in parts)
        assert parts[-1].end.size_bytes == len(content)
        file_id = new_id("file")
        self.files[file_id] = content
        self.uploads[file_id] = parts[0].description
        return memory_pb2.UploadFileResponse(file=memory_pb2.File(file_id=file_id))


@pytest.fixture(scope="session")
def memory(signing: Any) -> Iterator[Any]:
    """A memory service with `files`, a data source `sales`, and its `target`."""
    servicer = FilesOfAlice(signing.jwks_file)
    server = grpc.server(ThreadPoolExecutor(4))
    memory_pb2_grpc.add_FilesServiceServicer_to_server(servicer, server)
    servicer.sales = Sales(CallerTokenVerifier(signing.jwks_file))
    sources_pb2_grpc.add_SourcesServiceServicer_to_server(servicer.sales, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(None)


class ToolsProcess:
    """A process of the service, with its log and ports."""

    def __init__(self, process: subprocess.Popen[str] | WarmPopen, environment: dict[str, str], log: Path) -> None:
        self.process = process
        self.log_file = log
        self.environment = environment
        self._ready: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ports = self._ready.get(timeout=100)
        if ports is None:
            self.stop(signal.SIGKILL)
            raise AssertionError(self.log_file.read_text())
        self.target = f"127.0.0.1:{ports['grpc']}"
        self.metrics_port = int(ports["metrics"])

    def _read(self) -> None:
        assert self.process.stdout
        with self.log_file.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if '"service.ready"' in line:
                    self._ready.put(json.loads(line))
        self._ready.put(None)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(30)
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()
        return status


def imported(before: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """`python -m slipway_tools.main`, behind the beginning of a shell command."""
    command = ["/bin/sh", "-c", f"{before} {sys.executable} -m slipway_tools.main"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="session")
def start_tools(
    new_database: Callable[[], str],
    valkey_url: str,
    memory: Any,
    target: Target,
    signing: Any,
    policy_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    warm: Callable[[str], WarmProgram],
) -> Iterator[Callable[..., ToolsProcess]]:
    """Starts tools processes that share the sandbox's Python; further settings by name.

    `before` is a shell command that becomes the process.
    """
    state_dir = tmp_path_factory.mktemp("state")
    started: list[ToolsProcess] = []

    def start(before: str = "", **settings: str) -> ToolsProcess:
        folder = tmp_path_factory.mktemp("tools")
        secrets = folder / "secrets.yaml"
        secrets.write_text(
            f'ledger-token: "{SECRET}"\n'
            "globex-key: {value: only-for-globex, tenants: [globex]}\n"
            "elsewhere: {value: only-for-elsewhere, hosts: [elsewhere.example]}\n"
        )
        secrets.chmod(0o600)
        own = {
            "DATABASE_URL": settings.pop("DATABASE_URL", "") or new_database(),
            "BUS_URL": valkey_url,
            "CALLER_JWKS_FILE": str(signing.jwks_file),
            "IDENTITY_TARGET": "127.0.0.1:1",
            "SERVICE_SECRET": "test",
            "POLICY_DIR": str(policy_dir),
            "DATA_KEY": base64.b64encode(bytes(range(32))).decode(),
            "MEMORY_TARGET": memory.target,
            "STATE_DIR": str(state_dir),
            "SECRETS_FILE": str(secrets),
            "HTTP_ALLOW": f"127.0.0.1:{target.port}",
            "SHUTDOWN_GRACE": "1",
            "SANDBOX_WARM": "0",
            **settings,
        }
        named = {f"SLIPWAY_TOOLS_{name}": value for name, value in own.items()}
        environment = {**os.environ, **named}
        popen = (
            warm("slipway_tools.main").popen(environment=environment) if not before else imported(before, environment)
        )
        process = ToolsProcess(popen, named, folder / "log")
        started.append(process)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.stop()


@pytest.fixture(scope="session")
def tools(start_tools: Callable[..., ToolsProcess]) -> ToolsProcess:
    """The session's tools process."""
    return start_tools(SANDBOX_SLOTS="2", SANDBOX_MEMORY_MIB="256", SANDBOX_WORKSPACE_MIB="8", REGIONS="eu")


class Client:
    """Calls a tools process as somebody."""

    def __init__(self, target: str, token: str) -> None:
        self._target = target
        self._token = token

    async def call(self, method: str, request: Any, timeout: float = 60) -> Any:
        # The channel belongs to the event loop of the test.
        async with connect(self._target) as channel:
            stub = tools_pb2_grpc.ToolsServiceStub(channel)
            return await invoke(getattr(stub, method), request, token=self._token, timeout=timeout)

    async def put(self, name: str, url: str, **changes: Any) -> tools_pb2.PutToolResponse:
        http = {"method": "POST", "url": url, **changes.pop("http", {})}
        fields = {"input_schema_json": '{"type":"object"}', "description": "A tool", **changes}
        return await self.call(
            "PutTool", tools_pb2.PutToolRequest(tool=name, http=tools_pb2.HttpTool(**http), **fields)
        )

    async def invoke(self, tool: str, arguments: Any = None, **fields: Any) -> tools_pb2.InvokeToolResponse:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        return await self.call("InvokeTool", tools_pb2.InvokeToolRequest(tool=tool, arguments_json=text, **fields))

    async def python(self, code: str, **arguments: Any) -> tools_pb2.InvokeToolResponse:
        return await self.invoke("python", {"code": code, **arguments})


@pytest.fixture
def client(tools: ToolsProcess, signing: Any) -> Callable[..., Client]:
    """`client(subject="bob", tenant="globex", roles=[…])`: a client of the session's process; default alice."""

    def make(target: str = "", **who: Any) -> Client:
        return Client(target or tools.target, signing.token(**who))

    return make


@pytest.fixture
def alice(client: Callable[..., Client]) -> Client:
    return client()


@pytest.fixture(scope="session")
def effect() -> Callable[..., effects_pb2.EffectKey]:
    """`effect("run/step/1", epoch=1, attempt=1)`."""

    def make(key: str, epoch: int = 1, attempt: int = 1) -> effects_pb2.EffectKey:
        return effects_pb2.EffectKey(key=key, epoch=epoch, attempt=attempt)

    return make


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A name that no other test uses."""
    return lambda stem: f"{stem}{time.monotonic_ns()}"


@pytest.fixture
async def events(valkey_url: str, eventually: Any) -> Any:
    """`await events(event_id)`: the audit event as it came over the bus, with its body."""
    bus = await open_bus(valkey_url)
    seen: dict[str, dict[str, Any]] = {}

    async def keep(message: Message, _deliveries: int) -> None:
        seen[message.id] = json.loads(message.body)

    consuming = asyncio.create_task(bus.consume("audit.events", "tools-tests", keep))

    async def find(event_id: str) -> dict[str, Any]:
        await eventually(lambda: event_id in seen)
        return seen[event_id]

    find.seen = seen  # type: ignore[attr-defined]
    yield find
    consuming.cancel()
    await asyncio.gather(consuming, return_exceptions=True)
    await bus.close()
