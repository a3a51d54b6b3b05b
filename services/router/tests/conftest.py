"""A real router process on real servers, a small scripted provider over HTTP, and the local models."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from slipway.router.v1 import router_pb2 as pb
from slipway.router.v1 import router_pb2_grpc
from slipway_chassis.channel import connect, invoke, stream
from slipway_testkit.provider import Exchange, Provider, Script, running
from slipway_testkit.servers.redis import RedisServer
from slipway_testkit.signing import SigningAuthority
from slipway_testkit.warm import WarmProgram

REPOSITORY = Path(__file__).parents[3]


class Process:
    """A service process of the repository, its JSON log lines read as they come."""

    def __init__(self, program: WarmProgram, environment: dict[str, str]) -> None:
        self._popen = program.popen(environment={"PATH": os.environ["PATH"], **environment})
        self.lines: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.pid = self._popen.pid

    def _read(self) -> None:
        for line in self._popen.stdout:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.noise.append(line)

    def wait_for(self, event: str, timeout: float = 60, skip: int = 0) -> dict[str, Any]:
        """The next log line of that event after the first `skip` lines."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in self.lines[skip:]:
                if line.get("event") == event:
                    return line
            if self._popen.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {event}: {self.lines[-5:]} {''.join(self.noise)[-2000:]}")

    def exit_code(self, timeout: float = 30) -> int:
        return self._popen.wait(timeout)

    def output(self) -> str:
        self._reader.join(10)
        return "".join(self.noise) + json.dumps(self.lines)

    def stop(self) -> int:
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
        try:
            return self._popen.wait(20)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()
        finally:
            self._reader.join(10)
            self._popen.stdout.close()


class Client:
    """Calls the router for one caller, as a service does: token and deadline on each call."""

    def __init__(self, stub: router_pb2_grpc.RouterServiceStub, token: str) -> None:
        self.stub = stub
        self.token = token

    async def call(self, method: str, request: Any, timeout: float = 60) -> Any:
        return await invoke(getattr(self.stub, method), request, token=self.token, timeout=timeout)

    async def chat(self, model: str = "", text: str = "hello", **fields: Any) -> pb.CreateChatCompletionResponse:
        return await self.call("CreateChatCompletion", pb.CreateChatCompletionRequest(chat=chat(model, text, **fields)))

    def stream(self, model: str = "", text: str = "hello", **fields: Any) -> AsyncIterator[Any]:
        request = pb.StreamChatCompletionRequest(chat=chat(model, text, **fields))
        return stream(self.stub.StreamChatCompletion, request, token=self.token, timeout=60)

    async def usage(self, request_id: str = "", **fields: Any) -> list[pb.UsageRow]:
        return list((await self.call("ListUsage", pb.ListUsageRequest(request_id=request_id, **fields))).rows)


def chat(model: str, text: str, **fields: Any) -> pb.ChatRequest:
    """A request with one user message, unless `messages` says otherwise."""
    fields.setdefault("messages", [pb.ChatMessage(role="user", content=text)])
    return pb.ChatRequest(model=model, **fields)


@dataclass
class Router:
    """A running router."""

    process: Process
    port: int
    metrics_port: int
    catalogue: Path
    signing: SigningAuthority
    environment: dict[str, str]


@pytest.fixture(scope="session")
def start_router(
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[], str],
    valkey_server: RedisServer,
    signing: SigningAuthority,
    policy_dir: Path,
    warm: Callable[[str], WarmProgram],
) -> Iterator[Callable[..., Router]]:
    """Starts a router over a catalogue text and secrets; stopped at the end of the session.

    Replicas, which are those on one database, share a database of Valkey too: what one test's models cool down from is
    nothing to another's of the same name.
    """
    started: list[Process] = []
    caches: dict[str, str] = {}

    def start(catalogue: str, secrets: dict[str, str] | None = None, *, ready: bool = True, **settings: str) -> Router:
        folder = tmp_path_factory.mktemp("router")
        (folder / "models.yaml").write_text(catalogue)
        secrets_file = folder / "secrets.yaml"
        secrets_file.write_text(json.dumps(secrets or {}))
        secrets_file.chmod(0o600)
        database = settings.pop("database_url", "") or new_database()
        if database not in caches:
            caches[database] = valkey_server.new_database()
        environment = {
            "DATABASE_URL": database,
            "REDIS_URL": caches[database],
            "BUS_URL": valkey_server.url,
            "CALLER_JWKS_FILE": str(signing.jwks_file),
            "IDENTITY_TARGET": "127.0.0.1:1",
            "SERVICE_SECRET": "router-secret",
            "POLICY_DIR": str(policy_dir),
            "DATA_KEY": base64.b64encode(b"k" * 32).decode(),
            "CATALOGUE_FILE": str(folder / "models.yaml"),
            "SECRETS_FILE": str(secrets_file),
            **{name.upper(): value for name, value in settings.items()},
        }
        environment = {f"SLIPWAY_ROUTER_{name}": value for name, value in environment.items()}
        process = Process(warm("slipway_router.main"), environment)
        started.append(process)
        ports = process.wait_for("service.ready") if ready else {"grpc": 0, "metrics": 0}
        return Router(process, ports["grpc"], ports["metrics"], folder / "models.yaml", signing, environment)

    yield start
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def local_models_process(warm: Callable[[str], WarmProgram]) -> Iterator[Process]:
    """The local models, running."""
    process = Process(
        warm("slipway_router.local_models.__main__"),
        {"SLIPWAY_LOCAL_MODELS_LISTEN": "127.0.0.1:0", "SLIPWAY_LOCAL_MODELS_API_KEY": "local-key"},
    )
    try:
        process.wait_for("local_models.ready")
        yield process
    finally:
        assert process.stop() == 0, process.output()


@pytest.fixture(scope="session")
def local_models(local_models_process: Process) -> str:
    """Base URL of the local models."""
    return f"http://{local_models_process.wait_for('local_models.ready')['address']}/v1"


@pytest.fixture
async def connect_to() -> AsyncIterator[Callable[..., Client]]:
    """Makes clients of a router: `connect_to(router, subject="bob")`."""
    channels: list[Any] = []

    def client(router: Router, **caller: Any) -> Client:
        channel = connect(f"127.0.0.1:{router.port}")
        channels.append(channel)
        return Client(router_pb2_grpc.RouterServiceStub(channel), router.signing.token(**caller))

    yield client
    for channel in channels:
        await channel.close()


@pytest.fixture(scope="session")
def local_router(start_router: Callable[..., Router], local_models: str) -> Router:
    """A router over the repository's own catalogue and the local models."""
    catalogue = (REPOSITORY / "k8s" / "catalogue" / "models.yaml").read_text()
    return start_router(catalogue, {"local_models": "local-key"}, local_models_url=local_models)


@pytest.fixture
def local(local_router: Router, connect_to: Callable[..., Client]) -> Client:
    """Alice of acme at the local router."""
    return connect_to(local_router)


@dataclass
class Scripted:
    """A router whose models are scripts of a small provider."""

    router: Router
    provider: Provider

    def seen(self, route: str, position: int = 0) -> list[Exchange]:
        """What the candidate at that position of the route received."""
        script = self.provider_models[route][position]
        return self.provider.seen[script]

    provider_models: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def hung_up(self, route: str, position: int = 0) -> threading.Event:
        """Set when the router has closed the connection to that candidate in mid-answer."""
        return self.provider.hung_up[self.provider_models[route][position]]


def catalogue_of(
    routes: dict[str, list[str]],
    port: int,
    *,
    models_with: dict[str, dict[str, Any]] | None = None,
    routes_with: dict[str, dict[str, Any]] | None = None,
    file_with: dict[str, Any] | None = None,
    **limits: float,
) -> str:
    """A catalogue in which each route has models of its own, so that the health of one test is not another's.

    A candidate is written "script", or "script region"; model names are `<route>.<position>`. `…_with` adds to entries.
    """
    models, entries = {}, {}
    for route, scripts in routes.items():
        for position, candidate in enumerate(scripts):
            script, _, region = candidate.partition(" ")
            models[f"{route}.{position}"] = {
                "provider": region or "eu",
                "upstream": f"{script}@{route}.{position}",
                "kind": "embedding" if script.startswith("vectors") else "chat",
                "context_window": 1000,
                "max_output_tokens": 100,
                "capabilities": ["tools", "response_format"],
                "price": {"input": "1.00", "cached_input": "0.10", "output": "10", "reasoning": "20"},
                **(models_with or {}).get(f"{route}.{position}", {}),
            }
        entries[route] = {"candidates": [f"{route}.{n}" for n in range(len(scripts))], "tasks": [f"task-{route}"]}
        entries[route].update(limits | (routes_with or {}).get(route, {}))
    provider = {"type": "openai", "base_url": f"http://127.0.0.1:{port}/v1", "api_key": "secret:scripted"}
    providers = {region: {**provider, "regions": [region]} for region in ("eu", "us")}
    down = {**provider, "base_url": "http://127.0.0.1:9/v1", "regions": ["eu"]}
    document = {
        "version": 1,
        "regions": ["eu", "us", "ch"],
        "providers": {**providers, "down": down},
        "models": models,
        "routes": entries,
        **(file_with or {}),
    }
    return json.dumps(document, indent=1)


@pytest.fixture(scope="session")
def serve_provider() -> Callable[[dict[str, Script]], contextlib.AbstractContextManager[Provider]]:
    """Serves scripts as a provider: `with serve_provider(scripts) as provider`."""
    return lambda scripts: running(Provider(scripts))


@pytest.fixture(scope="session")
def scripted(start_router: Callable[..., Router]) -> Iterator[Callable[..., Scripted]]:
    """Starts a provider with scripts and a router over routes of them."""
    with contextlib.ExitStack() as stack:

        def start(
            scripts: dict[str, Script],
            routes: dict[str, list[str]],
            *,
            settings: dict[str, str] | None = None,
            **more: Any,
        ) -> Scripted:
            provider = stack.enter_context(running(Provider(scripts)))
            catalogue = catalogue_of(routes, provider.port, **more)
            router = start_router(catalogue, {"scripted": "sk-scripted-key"}, **(settings or {}))
            models = {
                route: [f"{script.partition(' ')[0]}@{route}.{n}" for n, script in enumerate(candidates)]
                for route, candidates in routes.items()
            }
            return Scripted(router, provider, models)

        yield start
