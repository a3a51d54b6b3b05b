"""The tools service under attack, called over gRPC, with a memory service that keeps files."""

import base64
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from slipway.memory.v1 import memory_pb2, memory_pb2_grpc
from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis.channel import connect, invoke
from slipway_chassis.ids import new_id
from slipway_testkit.pods import SandboxPods

from hostile_testing import host


class Files(memory_pb2_grpc.FilesServiceServicer):
    """Keeps what programs leave."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.target = ""

    def UploadFile(self, request_iterator: Any, context: Any) -> memory_pb2.UploadFileResponse:
        file_id = new_id("file")
        self.kept[file_id] = b"".join(part.data for part in request_iterator)
        return memory_pb2.UploadFileResponse(file=memory_pb2.File(file_id=file_id))


@contextmanager
def files() -> Iterator[Files]:
    """A memory service."""
    servicer = Files()
    server = grpc.server(ThreadPoolExecutor(8))
    memory_pb2_grpc.add_FilesServiceServicer_to_server(servicer, server)
    servicer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None)


class Service:
    """`python -m slipway_tools.main` with an adapter of the sandbox."""

    def __init__(self, environment: dict[str, str], state: Path, pods: SandboxPods | None = None) -> None:
        self.state = state
        self.pods = pods
        self.log: list[str] = []
        self.environment = environment
        self._ready: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "slipway_tools.main"],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ports = self._ready.get(timeout=90)
        if ports is None:
            self.stop(signal.SIGKILL)
            raise AssertionError("".join(self.log))
        self.target = f"127.0.0.1:{ports['grpc']}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def programs(self) -> list[str]:
        """What runs for it, here and on its cluster."""
        return host.processes(self.pid, self.state) + self._pods(ended=False)

    def runs(self, number: int) -> bool:
        """True when `number` programs run that have started another process each."""
        if self.pods is None:
            return len(self.programs()) >= 2 * number
        # The one that waits, the agent, the runner; the program and what it started.
        return sum(self.pods.processes(name) >= 5 for name in self._pods(ended=False)) >= number

    def pods_left(self) -> list[str]:
        """Pods that it made and that are not removed, whether they ended or not."""
        return self._pods(ended=True)

    def _pods(self, *, ended: bool) -> list[str]:
        there = self.pods.pods(ended=ended) if self.pods else []
        own = f"{self.pid}-"
        return [
            pod["metadata"]["name"]
            for pod in there
            if pod["metadata"]["labels"]["slipway.dev/instance"].startswith(own)
        ]

    @property
    def bounds_memory(self) -> bool:
        """False where the host has no control groups for it, which the service declares."""
        return not any('"sandbox.downgraded"' in line for line in self.log)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.log.append(line)
            if '"service.ready"' in line:
                self._ready.put(json.loads(line))
        self._ready.put(None)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        assert self.process.stdout
        self.process.stdout.close()
        return status


def start(
    sandbox: str,
    database: str,
    valkey: str,
    memory: Files,
    signing: Any,
    policies: Path,
    state: Path,
    pods: SandboxPods | None,
    **settings: str,
) -> Service:
    """Start a service whose sandboxes are made by `sandbox` (`nsjail`, `runsc:` and its path, `kubernetes`)."""
    if pods is not None:
        settings |= {
            "SANDBOX_NAMESPACE": pods.namespace,
            "SANDBOX_IMAGE": pods.image,
            "SANDBOX_KUBECONFIG": str(pods.kubeconfig),
            "SANDBOX_CPU_REQUEST": "0.05",
        }
    own = {
        "DATABASE_URL": database,
        "BUS_URL": valkey,
        "CALLER_JWKS_FILE": str(signing.jwks_file),
        "IDENTITY_TARGET": "127.0.0.1:1",
        "SERVICE_SECRET": "test",
        "POLICY_DIR": str(policies),
        "DATA_KEY": base64.b64encode(bytes(range(32))).decode(),
        "MEMORY_TARGET": memory.target,
        "STATE_DIR": str(state),
        "SHUTDOWN_GRACE": "1",
        "SANDBOX": sandbox,
        "SANDBOX_SLOTS": "2",
        "SANDBOX_WARM": "0",
        "SANDBOX_MEMORY_MIB": "256",
        "SANDBOX_WORKSPACE_MIB": "8",
        "SANDBOX_INODES": "1000",
        **settings,
    }
    return Service({f"SLIPWAY_TOOLS_{name}": value for name, value in own.items()}, state, pods)


class Client:
    """Calls the service as somebody."""

    def __init__(self, target: str, token: str) -> None:
        self._target = target
        self._token = token

    async def run(self, code: str, tool: str = "python", timeout: float = 120, **arguments: Any) -> Any:
        """One call; the answer."""
        async with connect(self._target) as channel:
            return await self.on(channel, code, tool, timeout, **arguments)

    async def on(self, channel: Any, code: str, tool: str = "python", timeout: float = 120, **arguments: Any) -> Any:
        """One call on a channel."""
        text = json.dumps({"code": code, **arguments})
        request = tools_pb2.InvokeToolRequest(tool=tool, arguments_json=text)
        stub = tools_pb2_grpc.ToolsServiceStub(channel)
        return await invoke(stub.InvokeTool, request, token=self._token, timeout=timeout)
