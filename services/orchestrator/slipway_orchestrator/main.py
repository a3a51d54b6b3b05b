"""Entry point: `python -m slipway_orchestrator.main api|worker`. Reads the environment and wires things together."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from slipway.agents.v1 import agents_pb2, agents_pb2_grpc
from slipway.runs.v1 import runs_pb2, runs_pb2_grpc, schedules_pb2, schedules_pb2_grpc
from slipway_chassis import telemetry
from slipway_chassis.bus import Bus, open_bus
from slipway_chassis.crypto import SubjectKeys
from slipway_chassis.evidence import Evidence
from slipway_chassis.outbox import Outbox
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.postgres import check_answers, close_pool, open_pool, transaction
from slipway_chassis.preflight import look_before_start
from slipway_chassis.readiness import Readiness
from slipway_chassis.retention import sweep
from slipway_chassis.service import run, run_service
from slipway_chassis.settings import load_settings
from slipway_chassis.tokens import CallerTokenVerifier, ServiceTokenSource

from slipway_orchestrator.deciding import ApprovalDesk
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.expressions.sandbox import EvaluationProcess
from slipway_orchestrator.forking import ForkDesk
from slipway_orchestrator.kill_switch import KillSwitch
from slipway_orchestrator.launching import Launcher
from slipway_orchestrator.migrate import SCHEMA
from slipway_orchestrator.once import Transaction
from slipway_orchestrator.peers import CallersCatalogue, Peers
from slipway_orchestrator.registry import AgentRegistry
from slipway_orchestrator.replaying import ReplayDesk
from slipway_orchestrator.scheduling import ScheduleDesk
from slipway_orchestrator.servicer_agents import AgentsServicer
from slipway_orchestrator.servicer_runs import RunsServicer
from slipway_orchestrator.servicer_schedules import SchedulesServicer
from slipway_orchestrator.settings import OrchestratorSettings
from slipway_orchestrator.starting import RunDesk
from slipway_orchestrator.steering import SteeringDesk
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.approvals import ApprovalStore
from slipway_orchestrator.store.copies import JournalCopies
from slipway_orchestrator.store.excerpts import Excerpts
from slipway_orchestrator.store.journal import Journal
from slipway_orchestrator.store.leases import Leases
from slipway_orchestrator.store.queue import RunQueue
from slipway_orchestrator.store.retention import Retention
from slipway_orchestrator.store.runs import RunStore
from slipway_orchestrator.store.schedules import ScheduleStore
from slipway_orchestrator.store.suspensions import SuspensionStore
from slipway_orchestrator.store.tree import RunTree
from slipway_orchestrator.watching import Watcher
from slipway_orchestrator.worker.announcing import Announcer
from slipway_orchestrator.worker.claiming import Worker
from slipway_orchestrator.worker.crash import CrashPoints
from slipway_orchestrator.worker.firing import Scheduler
from slipway_orchestrator.worker.grants import RunTokens
from slipway_orchestrator.worker.held import Tools
from slipway_orchestrator.worker.performing import Performer
from slipway_orchestrator.worker.sources import Sources

_CRASH_AT = "SLIPWAY_ORCHESTRATOR_CRASH_AT"


@dataclass(frozen=True, slots=True)
class Parts:
    """What both processes have."""

    pool: Any
    bus: Bus
    keys: SubjectKeys
    outbox: Outbox
    evidence: Evidence
    journal: Journal
    agents: AgentStore
    runs: RunStore
    approvals: ApprovalStore
    policy: PolicyEngine
    peers: Peers
    transaction: Transaction

    @classmethod
    async def open(cls, settings: OrchestratorSettings) -> "Parts":
        """Open the database (migrated), the bus and the connections."""
        await look_before_start(settings, SCHEMA, bus=settings.bus_url, connections=settings.pool_size)
        pool = await open_pool(settings.database_url.get_secret_value(), max_size=settings.pool_size)
        await SCHEMA.prepare(pool, settings.migrations)
        bus = await open_bus(settings.bus_url.get_secret_value())
        keys = SubjectKeys(pool, settings.data_key.get_secret_value())
        outbox = Outbox(pool, bus, keys)
        evidence = Evidence("orchestrator", outbox)
        journal = Journal(keys, evidence, outbox)
        return cls(
            pool=pool,
            bus=bus,
            keys=keys,
            outbox=outbox,
            evidence=evidence,
            journal=journal,
            agents=AgentStore(),
            runs=RunStore(keys, journal, outbox),
            approvals=ApprovalStore(keys, journal),
            policy=PolicyEngine(settings.policy_dir),
            peers=Peers.at(
                settings.router_target,
                settings.memory_target,
                settings.tools_target,
                settings.identity_target,
                settings.tls,
            ),
            transaction=partial(transaction, pool),
        )

    async def database_answers(self) -> None:
        """Raise when the database is away."""
        await check_answers(self.pool)

    async def close(self) -> None:
        """Close everything."""
        await self.peers.close()
        await self.bus.close()
        await close_pool(self.pool)


async def serve_api(settings: OrchestratorSettings) -> None:
    """The gRPC services."""
    telemetry.setup("orchestrator", settings.otlp_endpoint, settings.log_level)
    parts = await Parts.open(settings)
    catalogue = CallersCatalogue(parts.peers)
    registry = AgentRegistry(parts.transaction, parts.agents, parts.policy, parts.evidence, catalogue)
    suspensions, excerpts = SuspensionStore(), Excerpts(parts.keys)
    launcher = Launcher(parts.runs, parts.agents, parts.journal, suspensions, parts.policy)
    desk = RunDesk(parts.transaction, launcher, parts.runs, parts.journal, excerpts, parts.policy)
    copies = JournalCopies(parts.keys, parts.evidence)
    forks = ForkDesk(parts.transaction, launcher, parts.runs, parts.journal, copies, parts.policy, parts.evidence)
    steering = SteeringDesk(
        parts.transaction, parts.runs, parts.agents, excerpts, suspensions, parts.policy, parts.evidence
    )
    switch = KillSwitch(parts.transaction, suspensions, parts.agents, parts.runs, parts.policy, parts.evidence)
    approvals = ApprovalDesk(parts.transaction, parts.approvals, parts.runs, parts.policy, parts.evidence)

    schedules = ScheduleDesk(parts.transaction, ScheduleStore(parts.keys), parts.agents, parts.policy, parts.evidence)

    process = EvaluationProcess()
    replays = ReplayDesk(parts.transaction, parts.runs, parts.agents, parts.journal, Evaluator(process), parts.policy)

    async def stop() -> None:
        await process.close()
        await parts.close()

    def servicers(server: grpc.aio.Server) -> Sequence[str]:
        agents_pb2_grpc.add_AgentsServiceServicer_to_server(AgentsServicer(registry, switch), server)
        watcher = Watcher(desk, parts.bus)
        runs_pb2_grpc.add_RunsServiceServicer_to_server(
            RunsServicer(desk, steering, forks, replays, approvals, watcher), server
        )
        schedules_pb2_grpc.add_SchedulesServiceServicer_to_server(SchedulesServicer(schedules), server)
        return [
            schedules_pb2.DESCRIPTOR.services_by_name["SchedulesService"].full_name,
            agents_pb2.DESCRIPTOR.services_by_name["AgentsService"].full_name,
            runs_pb2.DESCRIPTOR.services_by_name["RunsService"].full_name,
        ]

    await run_service(
        "orchestrator",
        settings,
        servicers=servicers,
        background={
            "outbox": parts.outbox.relay,
            "retention": partial(sweep, parts.pool),
            "run-retention": Retention(parts.pool, settings.retention_days).run,
        },
        readiness=Readiness({"postgres": parts.database_answers}, {"bus": parts.bus.ping}),
        on_stop=stop,
    )


async def work(settings: OrchestratorSettings, crash: CrashPoints) -> None:
    """A worker. It serves health and metrics only."""
    telemetry.setup("orchestrator-worker", settings.otlp_endpoint, settings.log_level)
    parts = await Parts.open(settings)
    secret = settings.service_secret.get_secret_value()
    tokens = RunTokens(
        settings.identity_target,
        ServiceTokenSource(settings.identity_target, "orchestrator", secret, settings.tls),
        CallerTokenVerifier(settings.caller_jwks_file),
        settings.tls,
    )
    owner = f"{socket.gethostname()}/{os.getpid()}/{os.urandom(4).hex()}"
    tree = RunTree(parts.keys, parts.journal, parts.runs)
    leases = Leases(
        parts.pool,
        parts.keys,
        parts.journal,
        parts.approvals,
        parts.outbox,
        tree,
        owner=owner,
        seconds=settings.lease_seconds,
    )
    process = EvaluationProcess()
    announcer = Announcer(parts.bus)
    sources = Sources(parts.transaction, parts.agents, parts.runs, tokens)
    tools = Tools(
        leases=leases,
        sources=sources,
        peers=parts.peers,
        performer=Performer(parts.peers, sources),
        evaluator=Evaluator(process),
        policy=parts.policy,
        announcer=announcer,
        crash=crash,
    )
    queue = RunQueue(
        parts.pool,
        owner=owner,
        seconds=settings.lease_seconds,
        worker_pool=settings.worker_pool,
        tenant_concurrency=settings.tenant_concurrency,
    )
    worker = Worker(
        tools, leases, queue, parts.bus, concurrency=settings.concurrency, sweep_seconds=settings.sweep_seconds
    )

    scheduler = Scheduler(
        parts.transaction,
        ScheduleStore(parts.keys),
        parts.runs,
        Launcher(parts.runs, parts.agents, parts.journal, SuspensionStore(), parts.policy),
        tokens,
        parts.evidence,
        look_seconds=settings.sweep_seconds,
    )

    async def stop() -> None:
        await process.close()
        await tokens.close()
        await parts.close()

    await run_service(
        "orchestrator-worker",
        settings,
        servicers=lambda _server: [],
        background={
            "worker": worker.run,
            "wake-ups": worker.consume,
            "inboxes": worker.listen,
            "announcer": announcer.run,
            "metrics": worker.measure,
            "schedules": scheduler.run,
            "schedule-grants": scheduler.renew,
            "outbox": parts.outbox.relay,
        },
        readiness=Readiness({"postgres": parts.database_answers}, {"bus": parts.bus.ping}),
        on_stop=stop,
    )


def main(arguments: Sequence[str]) -> None:
    """Run one of the processes; exit 2 for a wrong call or wrong settings."""
    if len(arguments) != 1 or arguments[0] not in ("api", "worker"):
        sys.exit("usage: python -m slipway_orchestrator.main api|worker")
    settings = load_settings(OrchestratorSettings)
    if arguments[0] == "api":
        run(serve_api(settings))
        return
    spec = os.environ.get(_CRASH_AT, "")
    if spec and os.environ.get("SLIPWAY_ENV") != "test":
        sys.exit(f"slipway: {_CRASH_AT} kills the worker and is for tests: it needs SLIPWAY_ENV=test")
    run(work(settings, CrashPoints(spec)))


if __name__ == "__main__":
    main(sys.argv[1:])
