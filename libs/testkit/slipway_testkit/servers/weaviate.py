"""Weaviate (Go): vectors and keywords, with an API key."""

import os
import secrets
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipway_testkit.servers.process import ServerProcess, ServerUnavailable, accepts_connections, free_port

_VERSION = "1.39.0"


@dataclass
class WeaviateServer:
    """A running Weaviate on 127.0.0.1 whose data survives a restart."""

    process: ServerProcess
    port: int
    grpc_port: int
    data: Path
    key: str
    spare_key: str

    def url(
        self, collection: str, *, key: str | None = None, port: int | None = None, grpc_port: int | None = None
    ) -> str:
        """URL as memory's setting VECTORS_URL takes it; with another key or port: a wrong one.

        `collection` is what the names of collections begin with, so that tests do not meet.
        """
        address = f"{key or self.key}@127.0.0.1:{port or self.port}"
        return f"weaviate://{address}?grpc_port={grpc_port or self.grpc_port}&collection={collection}"

    def new_url(self) -> str:
        """URL with a name that nobody else has."""
        return self.url(f"T{secrets.token_hex(4)}x")

    def start(self) -> None:
        """Starts the server and waits until it is ready."""
        self.process.start(self._ready, timeout=90)

    def start_if_stopped(self) -> None:
        """For the end of a test that stops the server, and may have failed in between."""
        if not self.process.running:
            self.start()

    def allow_only(self, key: str) -> None:
        """Restarts the server, which takes this key alone from then on."""
        self.stop()
        self.process.env = {**self.process.env, "AUTHENTICATION_APIKEY_ALLOWED_KEYS": key}
        self.start()

    def stop(self, *, crash: bool = False) -> None:
        """Stops the server; `crash`: by SIGKILL."""
        self.process.stop(crash=crash)

    def lose(self) -> None:
        """Ends the server and all that it has stored; it starts empty."""
        self.process.stop(crash=True)
        shutil.rmtree(self.data)
        self.data.mkdir()

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/.well-known/ready", timeout=2) as answer:
                return answer.status == 200 and accepts_connections(self.grpc_port)
        except (urllib.error.URLError, OSError):
            return False


def _program() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    checkout = Path(__file__).parents[4]
    installed = (
        checkout / ".servers" / "bin" / "weaviate-server",
        cache / "slipway" / "servers" / f"weaviate-{_VERSION}" / "weaviate-server",
    )
    for program in installed:
        if os.access(program, os.X_OK):
            return program
    raise ServerUnavailable("Weaviate is not installed (run `make servers`)")


@contextmanager
def weaviate() -> Generator[WeaviateServer]:
    """Weaviate over a temporary folder; ServerUnavailable when it is not installed."""
    program = _program()
    folder = Path(tempfile.mkdtemp(prefix="slipway-weaviate-"))
    data = folder / "data"
    data.mkdir()
    port, grpc_port, gossip, exchange, raft, raft_rpc, profiling = (free_port() for _ in range(7))
    key, spare_key = secrets.token_hex(16), secrets.token_hex(16)
    process = ServerProcess(
        "weaviate",
        [str(program), "--host", "127.0.0.1", "--port", str(port), "--scheme", "http"],
        folder / "server.log",
        env={
            "PERSISTENCE_DATA_PATH": str(data),
            "GRPC_PORT": str(grpc_port),
            "CLUSTER_HOSTNAME": "node1",
            "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
            "CLUSTER_BIND_ADDR": "127.0.0.1",
            "CLUSTER_GOSSIP_BIND_PORT": str(gossip),
            "CLUSTER_DATA_BIND_PORT": str(exchange),
            "RAFT_PORT": str(raft),
            "RAFT_INTERNAL_RPC_PORT": str(raft_rpc),
            "RAFT_BOOTSTRAP_EXPECT": "1",
            "GO_PROFILING_PORT": str(profiling),
            "PROMETHEUS_MONITORING_ENABLED": "false",
            "DEFAULT_VECTORIZER_MODULE": "none",
            "DISABLE_TELEMETRY": "true",
            "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
            "AUTHENTICATION_APIKEY_ENABLED": "true",
            "AUTHENTICATION_APIKEY_ALLOWED_KEYS": f"{key},{spare_key}",
            "AUTHENTICATION_APIKEY_USERS": "slipway",
            "GOMEMLIMIT": "1GiB",
            "LOG_LEVEL": "warning",
        },
    )
    server = WeaviateServer(process, port, grpc_port, data, key, spare_key)
    try:
        server.start()
        yield server
    finally:
        process.stop()
        shutil.rmtree(folder, ignore_errors=True)
