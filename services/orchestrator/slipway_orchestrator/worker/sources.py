"""What a run needs that lies elsewhere: its definition and its token, and those of the agents that it calls."""

from dataclasses import dataclass

from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.once import Transaction
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.runs import RunIdentity
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.runs import RunStore
from slipway_orchestrator.store.suspensions import SuspensionStore
from slipway_orchestrator.worker.grants import RunTokens

_READ = 256
"""Definitions that are kept."""


@dataclass(frozen=True, slots=True)
class Callee:
    """An agent that a run calls."""

    name: str
    version: int = 0
    digest: str = ""
    definition: Definition | None = None
    fault: tuple[str, str] | None = None
    """Code and message of why it cannot be called."""


class Sources:
    """Reads definitions and grants, and exchanges the grants."""

    def __init__(self, transaction: Transaction, agents: AgentStore, runs: RunStore, tokens: RunTokens) -> None:
        self._transaction = transaction
        self._agents = agents
        self._runs = runs
        self._tokens = tokens
        self._suspensions = SuspensionStore()
        self._read: dict[tuple[str, str, int, str], Definition] = {}
        """Versions never change."""

    async def definition(self, run: RunIdentity) -> Definition | None:
        """The definition that the run runs; None when this code cannot read it."""
        key = run.tenant, run.agent, run.version, run.digest
        if key not in self._read:
            async with self._transaction() as conn:
                version = await self._agents.version(conn, run.tenant, run.agent, run.version)
            if version is None or version.digest != run.digest:
                return None
            try:
                definition = stored_definition(version.definition)
            except ValueError:
                return None
            if len(self._read) >= _READ:
                self._read.clear()
            self._read[key] = definition
        return self._read[key]

    async def suspended(self, run: RunIdentity) -> str | None:
        """Why the run's agent may not go on now; None when it may."""
        async with self._transaction() as conn:
            found = await self._suspensions.of(conn, run.tenant, run.agent)
        return None if found is None else found.reason or "suspended"

    async def callee(self, run: RunIdentity, name: str, number: int) -> Callee:
        """The version of an agent that the run would call: the one in production for number 0."""
        async with self._transaction() as conn:
            agent = await self._agents.get(conn, run.tenant, name)
            if agent is None:
                return Callee(name, fault=("AGENT_NOT_FOUND", f"there is no agent {name}"))
            number = number or agent.production_version
            version = await self._agents.version(conn, run.tenant, name, number) if number else None
            suspension = await self._suspensions.of(conn, run.tenant, name)
        if suspension is not None:
            return Callee(name, fault=("AGENT_SUSPENDED", f"agent {name} is suspended: {suspension.reason}"))
        if version is None or version.state != "APPROVED":
            return Callee(name, fault=("AGENT_NOT_IN_PRODUCTION", f"agent {name} has no approved version to run"))
        try:
            definition = stored_definition(version.definition)
        except ValueError:
            return Callee(name, fault=("DEFINITION_UNREADABLE", f"the definition of {name} cannot be read"))
        return Callee(name, version.version, version.digest, definition)

    async def token(self, run: RunIdentity) -> str:
        """A short token that acts for the run's subject. Raises PermissionDenied or Unavailable."""
        async with self._transaction() as conn:
            grant = await self._runs.grant(conn, run)
        return await self._tokens.token(run, grant)
