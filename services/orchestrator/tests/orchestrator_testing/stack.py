"""The orchestrator's processes and a client for them."""

import asyncio
import base64
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
from slipway.agents.v1 import agents_pb2, agents_pb2_grpc
from slipway.runs.v1 import runs_pb2, runs_pb2_grpc, schedules_pb2_grpc
from slipway_chassis.channel import connect, invoke, stream
from slipway_testkit.warm import WarmProcess, WarmProgram

TERMINAL = ("run.succeeded", "run.failed", "run.cancelled")


class FreshProgram:
    """The orchestrator, imported anew by each of its processes: for benchmarks."""

    async def start(self, *arguments: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "slipway_orchestrator.main", *arguments)
        pipe, same = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        return await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=same)


class Process:
    """One process of the orchestrator, its log kept."""

    def __init__(self, process: WarmProcess | asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.grpc_port = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace"))

    async def ready(self) -> None:
        async with asyncio.timeout(40):
            while True:
                for line in self.lines:
                    if "service.ready" in line:
                        self.grpc_port = json.loads(line)["grpc"]
                        return
                if self.process.returncode is not None:
                    raise AssertionError("the process ended:\n" + "".join(self.lines[-20:]))
                await asyncio.sleep(0.05)

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(40):
            return await self.process.wait()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        await self.process.wait()
        await self._reader


class Stack:
    """An api process, workers, and the calls of their users."""

    def __init__(
        self, program: WarmProgram | FreshProgram, environment: dict[str, str], signing: Any, database_url: str
    ) -> None:
        self.program = program
        self.environment = environment
        self.signing = signing
        self.database_url = database_url
        self.processes: list[Process] = []
        self.channel: Any = None
        self.tokens: dict[str, str] = {}

    async def start(self, kind: str, **environment: str) -> Process:
        process = await self.program.start(kind, environment={**os.environ, **self.environment, **environment})
        started = Process(process)
        self.processes.append(started)
        await started.ready()
        if kind == "api":
            self.channel = connect(f"127.0.0.1:{started.grpc_port}")
            self.agents = agents_pb2_grpc.AgentsServiceStub(self.channel)
            self.runs = runs_pb2_grpc.RunsServiceStub(self.channel)
            self.schedules = schedules_pb2_grpc.SchedulesServiceStub(self.channel)
        return started

    async def worker(self, **environment: str) -> Process:
        return await self.start("worker", **environment)

    async def close(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        for process in self.processes:
            await process.stop()

    def token(self, who: str) -> str:
        if who == "bobs-key":
            # An API key that bob made: a principal of its own, for which he answers.
            return self.signing.token("api-key:desk", "acme", ["developer", "operator"], owner="bob")
        roles = {
            "alice": ["developer", "operator"],
            "bob": ["reviewer", "refund-approver"],
            "dave": ["platform-admin"],
            "frank": ["refund-approver"],
            "gina": ["developer", "operator"],
            "erin": [],
        }[who]
        tenant = "globex" if who == "gina" else "acme"
        return self.signing.token(who, tenant, roles)

    async def call(self, method: Any, request: Any, who: str = "alice") -> Any:
        return await invoke(method, request, token=self.token(who), timeout=20)

    async def put(self, definition: str, who: str = "alice", name: str = "refund-desk") -> Any:
        return await self.call(
            self.agents.PutAgent, agents_pb2.PutAgentRequest(agent=name, definition_yaml=definition), who
        )

    async def promote(self, definition: str, name: str = "refund-desk") -> int:
        """Put, submit, approve and promote."""
        number = (await self.put(definition, name=name)).version.version
        await self.call(
            self.agents.SubmitAgentVersion, agents_pb2.SubmitAgentVersionRequest(agent=name, version=number)
        )
        request = agents_pb2.ApproveAgentVersionRequest(agent=name, version=number)
        await self.call(self.agents.ApproveAgentVersion, request, "bob")
        await self.call(
            self.agents.PromoteAgentVersion, agents_pb2.PromoteAgentVersionRequest(agent=name, version=number), "bob"
        )
        return number

    async def begin(self, value: Any = None, name: str = "refund-desk", who: str = "alice", **more: Any) -> str:
        tenant = "globex" if who == "gina" else "acme"
        request = runs_pb2.StartRunRequest(
            agent=name,
            input_json=json.dumps(value if value is not None else {"message": "refund?"}),
            run_grant=f"{who}/{tenant}/{name}",
            **more,
        )
        return (await self.call(self.runs.StartRun, request, who)).run.run_id

    async def get(self, run_id: str, who: str = "alice") -> Any:
        return (await self.call(self.runs.GetRun, runs_pb2.GetRunRequest(run_id=run_id), who)).run

    async def journal(self, run_id: str, who: str = "alice") -> list[Any]:
        request = runs_pb2.ListRunEventsRequest(run_id=run_id, page_size=1000)
        return list((await self.call(self.runs.ListRunEvents, request, who)).events)

    async def watch(self, run_id: str, after: int = 0, until: str = "", seconds: float = 30) -> list[Any]:
        """The events of a run until its end, or until one of kind `until`."""
        events: list[Any] = []
        request = runs_pb2.WatchRunRequest(run_id=run_id, after_seq=after)
        async for update in stream(self.runs.WatchRun, request, token=self.token("alice"), timeout=seconds):
            events.append(update.event)
            if until and update.event.kind == until:
                break
        return events

    async def finish(self, run_id: str, seconds: float = 30) -> Any:
        """The run when it has ended."""
        await self.watch(run_id, seconds=seconds)
        return await self.get(run_id)

    async def pending(self, run_id: str) -> Any:
        """The approval that the run waits for."""
        await self.watch(run_id, until="run.waiting")
        run = await self.get(run_id)
        request = runs_pb2.GetApprovalRequest(approval_id=run.pending_approval_ids[0])
        return (await self.call(self.runs.GetApproval, request, "bob")).approval

    async def decide(self, approval: Any, decision: str, who: str = "bob", **more: Any) -> Any:
        request = runs_pb2.DecideApprovalRequest(
            approval_id=approval.approval_id,
            decision=runs_pb2.Decision.Value(f"DECISION_{decision.upper()}"),
            arguments_digest=more.pop("arguments_digest", approval.arguments_digest),
            **more,
        )
        return (await self.call(self.runs.DecideApproval, request, who)).approval

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        conn = await asyncpg.connect(self.database_url)
        try:
            return await conn.fetch(query, *arguments)
        finally:
            await conn.close()


def environment(
    *, database_url: str, bus_url: str, target: str, jwks: Path, policy_dir: Path, **more: str
) -> dict[str, str]:
    """Settings of the processes."""
    return {
        "SLIPWAY_ENV": "test",
        "SLIPWAY_ORCHESTRATOR_GRPC_LISTEN": "127.0.0.1:0",
        "SLIPWAY_ORCHESTRATOR_METRICS_LISTEN": "127.0.0.1:0",
        "SLIPWAY_ORCHESTRATOR_DATABASE_URL": database_url,
        "SLIPWAY_ORCHESTRATOR_BUS_URL": bus_url,
        "SLIPWAY_ORCHESTRATOR_CALLER_JWKS_FILE": str(jwks),
        "SLIPWAY_ORCHESTRATOR_IDENTITY_TARGET": target,
        "SLIPWAY_ORCHESTRATOR_ROUTER_TARGET": target,
        "SLIPWAY_ORCHESTRATOR_MEMORY_TARGET": target,
        "SLIPWAY_ORCHESTRATOR_TOOLS_TARGET": target,
        "SLIPWAY_ORCHESTRATOR_SERVICE_SECRET": "secret",
        "SLIPWAY_ORCHESTRATOR_POLICY_DIR": str(policy_dir),
        "SLIPWAY_ORCHESTRATOR_DATA_KEY": base64.b64encode(b"k" * 32).decode(),
        **more,
    }
