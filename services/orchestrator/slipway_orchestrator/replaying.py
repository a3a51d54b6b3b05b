"""Replays on request: whether a finished run decides the same once more. Nothing is performed or written."""

from dataclasses import dataclass
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.errors import FailedPrecondition
from slipway_chassis.policy import PolicyEngine

from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.core.events import decode
from slipway_orchestrator.errors import RunNotFound
from slipway_orchestrator.expressions.evaluation import Evaluator
from slipway_orchestrator.metrics import REPLAYED
from slipway_orchestrator.once import Transaction
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.replay import Difference, Replay, Row
from slipway_orchestrator.runs import Run
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.journal import Journal
from slipway_orchestrator.store.runs import RunStore

MOST_REPLAYED = 50_000
"""Events of a journal that is replayed on request."""
_PAGE = 500


class RunNotEnded(FailedPrecondition):
    """Only what has ended can be replayed."""

    reason = "RUN_NOT_ENDED"


class NotReplayable(FailedPrecondition):
    """The journal is not kept any more, is too long, or its definition cannot be read by this release."""

    reason = "RUN_NOT_REPLAYABLE"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a replay went."""

    events: int
    difference: Difference | None


class ReplayDesk:
    """Replays runs."""

    def __init__(
        self,
        transaction: Transaction,
        runs: RunStore,
        agents: AgentStore,
        journal: Journal,
        evaluator: Evaluator,
        policy: PolicyEngine,
    ) -> None:
        self._transaction = transaction
        self._runs = runs
        self._agents = agents
        self._journal = journal
        self._evaluator = evaluator
        self._policy = policy

    async def replay(self, caller: Caller, run_id: str) -> Outcome:
        """Decide a run once more. Raises RunNotFound, RunNotEnded or NotReplayable."""
        async with self._transaction() as conn:
            run = await self._runs.get(conn, caller.tenant, run_id)
            if run is None:
                raise RunNotFound(f"there is no run {run_id}")
            self._policy.authorize(caller, "ReadRun", run.identity.resource)
            if not run.ended:
                raise RunNotEnded(f"run {run_id} is {run.state}; only what has ended can be replayed")
            if run.last_seq > MOST_REPLAYED:
                raise NotReplayable(f"the journal has more than {MOST_REPLAYED} events")
            definition = await self._definition(conn, run)
            related = run.place.depth > 0 or bool(await self._runs.children(conn, run_id, 1))
        rows = await self._rows(run)
        difference = await Replay(definition, self._evaluator, related=related).run(rows)
        REPLAYED.labels("same" if difference is None else "different").inc()
        return Outcome(run.last_seq, difference)

    async def _definition(self, conn: Any, run: Run) -> Definition:
        own = run.identity
        version = await self._agents.version(conn, own.tenant, own.agent, own.version)
        if version is None or version.digest != own.digest:
            raise NotReplayable("the version that the run ran is not there any more")
        try:
            return stored_definition(version.definition)
        except ValueError as error:
            raise NotReplayable("the run's definition cannot be read by this release") from error

    async def _rows(self, run: Run) -> list[Row]:
        """All events that this code knows, page by page: no transaction stays open over a long journal."""
        rows: list[Row] = []
        after = 0
        while after < run.last_seq:
            async with self._transaction() as conn:
                page = await self._journal.read(conn, run.identity, after, _PAGE)
            if not page or page[0].seq != after + 1:
                raise NotReplayable("the journal is not kept any more")
            for row in page:
                event = decode(row.kind, row.step_id, dict(row.data))
                if event is not None:
                    rows.append((row.seq, row.time, event))
            after = page[-1].seq
        return rows
