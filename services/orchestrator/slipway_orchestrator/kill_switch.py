"""Pulling and lifting kill switches (`suspension.py` says what they are)."""

from typing import Any, Literal

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.ids import new_id
from slipway_chassis.policy import PolicyEngine, Resource

from slipway_orchestrator.agents import Agent, agent_resource
from slipway_orchestrator.errors import AgentNotFound
from slipway_orchestrator.metrics import SWITCHED
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.recording import record
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.runs import RunStore
from slipway_orchestrator.store.suspensions import SuspensionStore
from slipway_orchestrator.suspension import EVERYTHING, Suspension, SuspensionScope

_BATCH = 100
_MAX_REASON = 1000


class KillSwitch:
    """What callers may suspend."""

    def __init__(
        self,
        transaction: Transaction,
        suspensions: SuspensionStore,
        agents: AgentStore,
        runs: RunStore,
        policy: PolicyEngine,
        evidence: Evidence,
    ) -> None:
        self._transaction = transaction
        self._suspensions = suspensions
        self._agents = agents
        self._runs = runs
        self._policy = policy
        self._evidence = evidence

    async def suspend_agent(self, caller: Caller, name: str, reason: str, key: RequestKey) -> Agent:
        """Stop an agent: no run starts, and those under way pause. Raises AgentNotFound."""
        _check_reason(reason)
        return await self._switch_agent(caller, name, reason, key)

    async def resume_agent(self, caller: Caller, name: str, key: RequestKey) -> Agent:
        """Let an agent run again, also one that was not suspended. Raises AgentNotFound."""
        return await self._switch_agent(caller, name, "", key)

    async def get(self, caller: Caller) -> list[Suspension]:
        """The tenant's suspension and everybody's, where there is one."""
        self._policy.authorize(caller, "ReadSuspension", _resource(caller.tenant, "TENANT"))
        async with self._transaction() as conn:
            return await self._suspensions.of_tenant(conn, caller.tenant)

    async def put(
        self, caller: Caller, scope: Literal["TENANT", "ALL"], *, suspended: bool, reason: str
    ) -> list[Suspension]:
        """Stop or let go the caller's tenant, or everything."""
        decision = self._policy.authorize(caller, "ManageSuspension", _resource(caller.tenant, scope))
        if suspended:
            _check_reason(reason)
        reach = SuspensionScope(caller.tenant, "") if scope == "TENANT" else EVERYTHING
        async with self._transaction() as conn:
            if await self._switch(conn, caller, reach, reason if suspended else ""):
                kind = "suspension.pulled" if suspended else "suspension.lifted"
                facts = {"scope": scope, "reason": reason}
                await record(conn, self._evidence, caller, f"suspension:{scope}", kind, facts, decision)
            found = await self._suspensions.of_tenant(conn, caller.tenant)
        await self._tell(caller, reach, suspended=suspended)
        return found

    async def _switch_agent(self, caller: Caller, name: str, reason: str, key: RequestKey) -> Agent:
        scope = SuspensionScope(caller.tenant, name)

        async def produce(conn: Any) -> bytes:
            await self._known(conn, caller, name)
            decision = self._policy.authorize(caller, "SuspendAgent", agent_resource(caller.tenant, name))
            if await self._switch(conn, caller, scope, reason):
                kind = "agent.suspended" if reason else "agent.resumed"
                await record(conn, self._evidence, caller, f"agent:{name}", kind, {"reason": reason}, decision)
            return b""

        async with self._transaction() as conn:
            await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            agent = await self._known(conn, caller, name)
        await self._tell(caller, scope, suspended=bool(reason))
        return agent

    async def _known(self, conn: Any, caller: Caller, name: str) -> Agent:
        agent = await self._agents.get(conn, caller.tenant, name)
        if agent is None:
            raise AgentNotFound(f"there is no agent {name}")
        return agent

    async def _switch(self, conn: Any, caller: Caller, scope: SuspensionScope, reason: str) -> bool:
        """Pull it for a reason, or lift it for none. True when this changed something."""
        if reason:
            changed = await self._suspensions.pull(conn, scope, reason, caller.subject)
        else:
            changed = await self._suspensions.lift(conn, scope)
        if changed:
            SWITCHED.labels(scope.name.lower(), "pulled" if reason else "lifted").inc()
        return changed

    async def _tell(self, caller: Caller, scope: SuspensionScope, *, suspended: bool) -> None:
        """Tell the runs that a worker holds, or those that are paused, in transactions of their own.

        Whatever is not told looks by itself before it goes on; lifting once more reaches what a crash left paused.
        """
        states = ("RUNNING",) if suspended else ("PAUSED",)
        after = ""
        while True:
            async with self._transaction() as conn:
                found = await self._suspensions.reached(conn, scope, states, after, _BATCH)
                for run in found:
                    body = {"by": caller.subject, "scope": scope.name}
                    await self._runs.put_in_inbox(conn, run, "suspend" if suspended else "unsuspend", body)
                    await self._runs.wake(conn, run, new_id("wake"))
            if len(found) < _BATCH:
                return
            after = found[-1].run_id


def _resource(tenant: str, scope: str) -> Resource:
    return Resource("Suspension", f"{tenant}/{scope}", tenant, {"scope": scope})


def _check_reason(reason: str) -> None:
    if not reason.strip() or len(reason) > _MAX_REASON:
        raise InvalidArgument(f"say why, in at most {_MAX_REASON} characters", field="reason")
