"""Forks: runs whose journal begins as a copy of another's.

Results before the fork stand in the copy, so nothing of it is done again. What was open at the fork (an intent, a gate,
a child run) is the other run's: the fork decides it anew. The fork acts in the name of whoever forks, under the
agent's version and with the input that they choose; what it holds stays data of the other run's subject.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.ids import new_id
from slipway_chassis.policy import PolicyDecision, PolicyEngine
from slipway_chassis.telemetry import span

from slipway_orchestrator.core.events import ForkPoint, RunForked, RunStarted, version_of
from slipway_orchestrator.errors import RunNotFound
from slipway_orchestrator.launching import Launcher, check_input, check_labels, new_identity, read_input
from slipway_orchestrator.metrics import FORKED
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.recording import record_on_run
from slipway_orchestrator.runs import Place, Run, RunIdentity
from slipway_orchestrator.store.copies import JournalCopies
from slipway_orchestrator.store.journal import Head, Journal
from slipway_orchestrator.store.runs import NewRun, RunStore

_TERMINAL = ("run.succeeded", "run.failed", "run.cancelled")
MOST_COPIED = 50_000
"""Events that a fork may copy."""


class ForkPointInvalid(InvalidArgument):
    """There is no event of that number to fork from, or nothing could follow it."""

    reason = "FORK_POINT_INVALID"


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """From where, and what is different."""

    run_id: str
    seq: int
    version: int
    """0: the run's own."""
    input_json: str
    """Empty: the run's own."""
    labels: Mapping[str, str]
    run_grant: str


class ForkDesk:
    """Forks runs."""

    def __init__(
        self,
        transaction: Transaction,
        launcher: Launcher,
        runs: RunStore,
        journal: Journal,
        copies: JournalCopies,
        policy: PolicyEngine,
        evidence: Evidence,
    ) -> None:
        self._transaction = transaction
        self._launcher = launcher
        self._runs = runs
        self._journal = journal
        self._copies = copies
        self._policy = policy
        self._evidence = evidence

    async def fork(self, caller: Caller, request: ForkRequest, key: RequestKey) -> Run:
        """Commit the fork with its copied journal. Raises RunNotFound, ForkPointInvalid, or what starting raises."""
        check_labels(request.labels)
        if not request.run_grant:
            raise InvalidArgument("a run acts under a grant, which the gateway signs", field="run_grant")
        with span("fork_run"):

            async def produce(conn: Any) -> bytes:
                return (await self._fork(conn, caller, request)).encode()

            async with self._transaction() as conn:
                answer = await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
                fork = await self._known(conn, caller, answer.decode())
        FORKED.inc()
        return fork

    async def _fork(self, conn: Any, caller: Caller, request: ForkRequest) -> str:
        source = await self._known(conn, caller, request.run_id)
        allowed = self._policy.authorize(caller, "ForkRun", source.identity.resource)
        await self._check_point(conn, source, request.seq)
        own = source.identity
        version, definition, decision = await self._launcher.startable(
            conn, caller, own.agent, request.version or own.version
        )
        value = read_input(request.input_json) if request.input_json else source.input
        check_input(definition, value)
        now = datetime.now(UTC)
        identity = new_identity(caller, version, own.subject, "")
        started = RunStarted(
            agent=version.agent,
            version=version.version,
            digest=version.digest,
            caller=caller.subject,
            proposer=caller.person,
            input=value,
            labels=dict(request.labels),
            priority=source.priority,
            forked_from=ForkPoint(own.run_id, request.seq),
            worker_pool=definition.scheduling.worker_pool or None,
        )
        forked = RunForked(
            own.run_id, request.seq, caller.subject, version.version, input_changed=value != source.input
        )
        await self._runs.insert(
            conn,
            NewRun(
                identity=identity,
                head=Head(),
                input=value,
                labels=request.labels,
                priority=source.priority,
                not_before=None,
                run_grant=request.run_grant,
                journal_version=max(version_of(forked), definition.journal_version),
                time=now,
                place=Place(identity.run_id, forked_from=(own.run_id, request.seq)),
                worker_pool=definition.scheduling.worker_pool,
                agent_concurrency=definition.scheduling.concurrency,
            ),
        )
        await self._record(conn, caller, source, identity, request, allowed)
        head = await self._journal.append(conn, identity, Head(), 0, [(now, started)], decision)
        head = await self._copies.copy(conn, own, identity, head, request.seq)
        head = await self._journal.append(conn, identity, head, 0, [(now, forked)])
        await self._runs.begin(conn, identity, head)
        await self._runs.wake(conn, identity, new_id("wake"))
        return identity.run_id

    async def _check_point(self, conn: Any, source: Run, seq: int) -> None:
        if seq < 1:
            raise ForkPointInvalid("a fork takes over at least the first event", field="seq")
        if seq > source.last_seq:
            raise ForkPointInvalid(f"the run has only {source.last_seq} events", field="seq")
        if seq > MOST_COPIED:
            raise ForkPointInvalid(f"a fork takes over at most {MOST_COPIED} events", field="seq")
        kind = await self._copies.kind(conn, source.identity, seq)
        if kind is None or kind in _TERMINAL:
            raise ForkPointInvalid("the run ended with this event: fork from an earlier one", field="seq")

    async def _record(
        self,
        conn: Any,
        caller: Caller,
        source: Run,
        fork: RunIdentity,
        request: ForkRequest,
        policy: PolicyDecision,
    ) -> None:
        facts = {"fork": fork.run_id, "seq": request.seq, "version": fork.version}
        await record_on_run(conn, self._evidence, caller, source.identity, "run.forked", facts, policy)

    async def _known(self, conn: Any, caller: Caller, run_id: str) -> Run:
        run = await self._runs.get(conn, caller.tenant, run_id)
        if run is None:
            raise RunNotFound(f"there is no run {run_id}")
        return run
