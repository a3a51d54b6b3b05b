"""What a run needs that lies elsewhere: its definition and its token."""

from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.once import Transaction
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.runs import RunStore
from slipway_orchestrator.worker.grants import RunTokens


class Sources:
    """Reads definitions and grants, and exchanges the grants."""

    def __init__(self, transaction: Transaction, agents: AgentStore, runs: RunStore, tokens: RunTokens) -> None:
        self._transaction = transaction
        self._agents = agents
        self._runs = runs
        self._tokens = tokens

    async def definition(self, run: RunIdentity) -> Definition | None:
        """The definition that the run runs; None when this code cannot read it."""
        async with self._transaction() as conn:
            version = await self._agents.version(conn, run.tenant, run.agent, run.version)
        if version is None or version.digest != run.digest:
            return None
        try:
            return stored_definition(version.definition)
        except ValueError:
            return None

    async def token(self, run: RunIdentity) -> str:
        """A short token that acts for the run's subject. Raises PermissionDenied or Unavailable."""
        async with self._transaction() as conn:
            grant = await self._runs.grant(conn, run)
        return await self._tokens.token(run, grant)
