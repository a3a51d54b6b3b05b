"""Starting and reading runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.idempotency import once
from slipway_chassis.policy import PolicyEngine
from slipway_chassis.telemetry import span

from slipway_orchestrator.errors import EventNotYet, RunNotFound
from slipway_orchestrator.launching import Launcher, StartRequest, check_request
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.runs import JournalRow, Pause, Run, RunDetails, RunIdentity
from slipway_orchestrator.store.excerpts import Excerpts
from slipway_orchestrator.store.journal import Journal
from slipway_orchestrator.store.runs import RunStore

_MOST_CHILDREN = 100


class RunDesk:
    """What callers may do with runs."""

    def __init__(
        self,
        transaction: Transaction,
        launcher: Launcher,
        runs: RunStore,
        journal: Journal,
        excerpts: Excerpts,
        policy: PolicyEngine,
    ) -> None:
        self._transaction = transaction
        self._launcher = launcher
        self._runs = runs
        self._journal = journal
        self._excerpts = excerpts
        self._policy = policy

    async def start(self, caller: Caller, request: StartRequest, key: RequestKey) -> Run:
        """Commit the run, its first event, its audit event and its wake-up together."""
        value = check_request(request)
        # The span is the root of the run's trace: workers go on from its context.
        with span("invoke_agent", attributes={"gen_ai.agent.name": request.agent}):
            launched: Run | None = None

            async def produce(conn: Any) -> bytes:
                nonlocal launched
                run = launched = await self._launcher.launch(conn, caller, request, value)
                return run.identity.run_id.encode()

            async with self._transaction() as conn:
                answer = await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
                return launched or await self._known(conn, caller, answer.decode())

    async def get(self, caller: Caller, run_id: str) -> Run:
        """The run. Raises RunNotFound, also for another tenant's."""
        async with self._transaction() as conn:
            run = await self._known(conn, caller, run_id)
        self._policy.authorize(caller, "ReadRun", run.identity.resource)
        return run

    async def details(self, run: Run) -> RunDetails:
        """What the row of a run does not tell."""
        async with self._transaction() as conn:
            children = await self._runs.children(conn, run.identity.run_id, _MOST_CHILDREN)
            kind = {"PAUSED": "run.paused", "SUCCEEDED": "run.succeeded"}.get(run.state)
            last = await self._excerpts.last(conn, run.identity, kind) if kind else None
        if last is None:
            return RunDetails(children)
        time, data = last
        if run.state == "SUCCEEDED":
            return RunDetails(children, output_tainted=bool(data.get("tainted")))
        return RunDetails(children, Pause(str(data.get("code") or ""), str(data.get("reason") or ""), time))

    async def page(
        self,
        caller: Caller,
        *,
        agent: str,
        states: Sequence[str],
        labels: Mapping[str, str],
        parent_run_id: str,
        before: str,
        limit: int,
    ) -> tuple[list[Run], str]:
        """The runs of the tenant that the caller may read, newest first, and the id after which to go on ("": end)."""
        found: list[Run] = []
        while True:
            async with self._transaction() as conn:
                page = await self._runs.page(
                    conn,
                    caller.tenant,
                    agent=agent,
                    states=states,
                    labels=labels,
                    parent_run_id=parent_run_id,
                    before=before,
                    limit=limit + 1,
                )
            for run in page[:limit]:
                before = run.identity.run_id
                if self._policy.decide(caller, "ReadRun", run.identity.resource).allowed:
                    found.append(run)
                    if len(found) == limit:
                        return found, before if run is not page[-1] else ""
            if len(page) <= limit:
                return found, ""

    async def follow(self, run: RunIdentity, after_seq: int, limit: int) -> list[JournalRow]:
        """Journal rows after a sequence number, for whoever was let read the run."""
        async with self._transaction() as conn:
            return await self._journal.read(conn, run, after_seq, limit)

    async def events(self, caller: Caller, run_id: str, after_seq: int, limit: int) -> tuple[list[JournalRow], bool]:
        """Journal rows after a sequence number, and whether there are more already. Raises EventNotYet."""
        run = await self.get(caller, run_id)
        check_seen(after_seq, run.last_seq)
        async with self._transaction() as conn:
            rows = await self._journal.read(conn, run.identity, after_seq, limit)
            last, _ = await self._runs.last_seq(conn, run_id)
        return rows, bool(rows) and rows[-1].seq < last

    async def _known(self, conn: Any, caller: Caller, run_id: str) -> Run:
        run = await self._runs.get(conn, caller.tenant, run_id)
        if run is None:
            raise _no_run(run_id)
        return run


def check_seen(seq: int, last_seq: int) -> None:
    """Raise EventNotYet for the number of an event that nobody can have seen."""
    if seq > last_seq:
        raise EventNotYet(f"the run has only {last_seq} events", field="after_seq")


def _no_run(run_id: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id}")
