"""Putting and reading schedules. `worker/firing.py` starts what is due."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument, NotFound
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.policy import PolicyEngine

from slipway_orchestrator.agents import Agent, agent_resource
from slipway_orchestrator.cron import Cron, ScheduleInvalid
from slipway_orchestrator.errors import AgentNotFound
from slipway_orchestrator.launching import check_input, check_labels
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.recording import record
from slipway_orchestrator.registry import stored_definition
from slipway_orchestrator.schedules import Schedule, ScheduleKey, Wanted
from slipway_orchestrator.store.agents import AgentStore
from slipway_orchestrator.store.schedules import ScheduleStore

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_CATCH_UP = timedelta(days=7)


class ScheduleNotFound(NotFound):
    """No such schedule of the agent, in the caller's tenant."""

    reason = "SCHEDULE_NOT_FOUND"


class ScheduleDesk:
    """What callers may do with schedules."""

    def __init__(
        self,
        transaction: Transaction,
        schedules: ScheduleStore,
        agents: AgentStore,
        policy: PolicyEngine,
        evidence: Evidence,
    ) -> None:
        self._transaction = transaction
        self._schedules = schedules
        self._agents = agents
        self._policy = policy
        self._evidence = evidence

    async def put(
        self, caller: Caller, agent: str, name: str, wanted: Wanted, grant: str, key: RequestKey
    ) -> tuple[Schedule, bool]:
        """Create or replace a schedule that acts for the caller: it, and whether it is new.

        Raises AgentNotFound, ScheduleInvalid or InputInvalid.
        """
        cron = _check(name, wanted, grant)
        own = ScheduleKey(caller.tenant, agent, name)

        async def produce(conn: Any) -> bytes:
            known = await self._agent(conn, caller, agent)
            resource = agent_resource(caller.tenant, agent)
            decision = self._policy.authorize(caller, "ManageSchedule", resource)
            # What its runs will need, in the caller's name.
            self._policy.authorize(caller, "StartAgent", resource)
            await self._check_input(conn, known, wanted)
            due = None if wanted.paused else cron.next_after(datetime.now(UTC))
            created = await self._schedules.put(conn, own, wanted, caller.subject, grant, due)
            facts = {
                "cron": wanted.cron,
                "time_zone": wanted.time_zone,
                "overlap": wanted.overlap,
                "paused": wanted.paused,
            }
            await record(
                conn, self._evidence, caller, f"schedule:{agent}/{name}", "schedule.put", dict(facts), decision
            )
            return b"new" if created else b""

        async with self._transaction() as conn:
            answer = await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            return await self._known(conn, own), bool(answer)

    async def get(self, caller: Caller, agent: str, name: str) -> Schedule:
        """The schedule. Raises AgentNotFound or ScheduleNotFound."""
        async with self._transaction() as conn:
            await self._agent(conn, caller, agent)
            self._policy.authorize(caller, "ReadAgent", agent_resource(caller.tenant, agent))
            return await self._known(conn, ScheduleKey(caller.tenant, agent, name))

    async def page(self, caller: Caller, agent: str, after: str, limit: int) -> list[Schedule]:
        """An agent's schedules by name. Raises AgentNotFound."""
        async with self._transaction() as conn:
            await self._agent(conn, caller, agent)
            self._policy.authorize(caller, "ReadAgent", agent_resource(caller.tenant, agent))
            return await self._schedules.page(conn, caller.tenant, agent, after, limit)

    async def delete(self, caller: Caller, agent: str, name: str) -> None:
        """End a schedule. Raises AgentNotFound or ScheduleNotFound."""
        async with self._transaction() as conn:
            await self._agent(conn, caller, agent)
            decision = self._policy.authorize(caller, "ManageSchedule", agent_resource(caller.tenant, agent))
            if not await self._schedules.delete(conn, ScheduleKey(caller.tenant, agent, name)):
                raise ScheduleNotFound(f"agent {agent} has no schedule {name}")
            await record(conn, self._evidence, caller, f"schedule:{agent}/{name}", "schedule.deleted", {}, decision)

    async def _agent(self, conn: Any, caller: Caller, name: str) -> Agent:
        agent = await self._agents.get(conn, caller.tenant, name)
        if agent is None:
            raise AgentNotFound(f"there is no agent {name}")
        return agent

    async def _check_input(self, conn: Any, agent: Agent, wanted: Wanted) -> None:
        """Against the version in production; before there is one, runs tell."""
        if not agent.production_version:
            return
        version = await self._agents.version(conn, agent.tenant, agent.name, agent.production_version)
        if version is not None:
            check_input(stored_definition(version.definition), wanted.input)

    async def _known(self, conn: Any, key: ScheduleKey) -> Schedule:
        schedule = await self._schedules.get(conn, key)
        if schedule is None:
            raise ScheduleNotFound(f"agent {key.agent} has no schedule {key.name}")
        return schedule


def _check(name: str, wanted: Wanted, grant: str) -> Cron:
    """The due times. Raises ScheduleInvalid or InvalidArgument that names the field."""
    if _NAME.fullmatch(name) is None:
        raise ScheduleInvalid("must be 1 to 63 lower-case letters, digits and inner hyphens", field="schedule")
    check_labels(wanted.labels)
    if not 0 <= wanted.priority <= 9:
        raise InvalidArgument("must be from 0 to 9", field="priority")
    if not timedelta(0) < wanted.catch_up <= _LONGEST_CATCH_UP:
        raise ScheduleInvalid(f"must be more than 0 and at most {_LONGEST_CATCH_UP.days} days", field="catch_up")
    if not grant:
        raise InvalidArgument("a schedule acts under a grant, which the gateway signs", field="schedule_grant")
    return Cron(wanted.cron, wanted.time_zone)
