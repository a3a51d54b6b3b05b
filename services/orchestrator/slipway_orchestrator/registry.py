"""The agent registry: versions, their review by another person, and their way to production."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any

from pydantic import JsonValue
from slipway_chassis.caller import Caller
from slipway_chassis.evidence import Evidence
from slipway_chassis.idempotency import once
from slipway_chassis.jcs import digest
from slipway_chassis.policy import PolicyDecision, PolicyEngine
from slipway_chassis.telemetry import current_trace_id

from slipway_orchestrator.agents import Agent, AgentVersion, agent_resource, require_other_eyes, require_state
from slipway_orchestrator.core.definition import Definition
from slipway_orchestrator.definitions.callees import check_callees
from slipway_orchestrator.definitions.catalogue import Catalogue, check_catalogue
from slipway_orchestrator.definitions.names import check_names
from slipway_orchestrator.definitions.outputs import Known
from slipway_orchestrator.definitions.parse import Parsed, canonical_text, parse
from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node, from_json, read_yaml
from slipway_orchestrator.errors import (
    AgentInvalid,
    AgentNotFound,
    AgentVersionNotFound,
    NothingToRollBack,
)
from slipway_orchestrator.once import RequestKey, Transaction
from slipway_orchestrator.store.agents import AgentStore

MAX_DEFINITION = 1 << 20
"""Bytes of a definition."""
Change = Callable[[Any, AgentVersion, PolicyDecision], Awaitable[None]]


class AgentRegistry:
    """What callers may do with agents."""

    def __init__(
        self,
        transaction: Transaction,
        store: AgentStore,
        policy: PolicyEngine,
        evidence: Evidence,
        catalogue: Catalogue,
    ) -> None:
        self._transaction = transaction
        self._store = store
        self._policy = policy
        self._evidence = evidence
        self._catalogue = catalogue

    async def put(self, caller: Caller, name: str, source: str, key: RequestKey) -> tuple[AgentVersion, bool]:
        """Register a definition: the version, and whether it is new. Raises AgentInvalid with every violation."""
        decision = self._policy.authorize(caller, "RegisterAgent", agent_resource(caller.tenant, name))
        problems = Problems()
        if len(source.encode()) > MAX_DEFINITION:
            raise AgentInvalid(f"the definition has more than {MAX_DEFINITION} bytes", field="definition")
        # The parser is slow on large texts: not on the event loop.
        root, parsed = await asyncio.to_thread(_read, source, problems)
        if parsed is None or root is None:
            problems.check()
            raise AgentInvalid("the definition is not valid", field="definition")
        definition = parsed.definition
        if definition.name != name:
            at = root.at("metadata.name")
            problems.add(at.path, at.line, f"must be {name}, the name that the definition is put under")
        tools = await check_catalogue(parsed, problems, self._catalogue)
        agents = await check_callees(parsed, problems, partial(self._callee, caller.tenant))
        known = Known(
            {tool: description.output_schema for tool, description in tools.items()},
            agents,
            {tool: description.input_schema for tool, description in tools.items()},
        )
        await asyncio.to_thread(check_names, parsed, problems, known)
        problems.check()
        text = canonical_text(root)

        async def produce(conn: Any) -> bytes:
            version, created = await self._store.put(
                conn,
                caller.tenant,
                definition,
                digest=digest(root.plain()),
                source=source,
                text=text,
                author=caller.person,
            )
            if created:
                await self._record(conn, caller, "agent.registered", version, decision)
            return json.dumps([version.version, created]).encode()

        async with self._transaction() as conn:
            answer = await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            number, created = json.loads(answer)
            return await self._version(conn, caller, name, number), created

    async def _callee(self, tenant: str, name: str, number: int) -> Definition | None:
        """The version of an agent that another one would call; None when there is none."""
        async with self._transaction() as conn:
            agent = await self._store.get(conn, tenant, name)
            if agent is None:
                return None
            number = number or agent.production_version or agent.latest_version
            version = await self._store.version(conn, tenant, name, number)
        return None if version is None else stored_definition(version.definition)

    async def get(self, caller: Caller, name: str) -> Agent:
        """The agent. Raises AgentNotFound."""
        async with self._transaction() as conn:
            agent = await self._store.get(conn, caller.tenant, name)
        if agent is None:
            raise _no_agent(name)
        self._policy.authorize(caller, "ReadAgent", agent_resource(caller.tenant, name))
        return agent

    async def page(self, caller: Caller, after: str, limit: int) -> list[Agent]:
        """The tenant's agents by name."""
        self._policy.authorize(caller, "ReadAgent", agent_resource(caller.tenant, "*"))
        async with self._transaction() as conn:
            return await self._store.page(conn, caller.tenant, after, limit)

    async def version(self, caller: Caller, name: str, number: int) -> AgentVersion:
        """One version. Raises AgentNotFound or AgentVersionNotFound."""
        async with self._transaction() as conn:
            version = await self._version(conn, caller, name, number)
        self._policy.authorize(caller, "ReadAgent", agent_resource(caller.tenant, name))
        return version

    async def versions(self, caller: Caller, name: str, below: int, limit: int) -> list[AgentVersion]:
        """Versions, newest first. Raises AgentNotFound."""
        await self.get(caller, name)
        async with self._transaction() as conn:
            return await self._store.versions(conn, caller.tenant, name, below, limit)

    async def submit(self, caller: Caller, name: str, number: int, key: RequestKey) -> AgentVersion:
        """DRAFT or REJECTED to IN_REVIEW."""

        async def change(conn: Any, version: AgentVersion, decision: PolicyDecision) -> None:
            require_state(version, "DRAFT", "REJECTED", to="submitted")
            await self._store.submit(conn, version, caller.person)
            await self._record(conn, caller, "agent.submitted", version, decision)

        return await self._change(caller, "SubmitAgent", name, number, key, change)

    async def review(
        self, caller: Caller, name: str, number: int, key: RequestKey, *, approve: bool, message: str
    ) -> AgentVersion:
        """IN_REVIEW to APPROVED or REJECTED, by somebody else. Raises ReviewerIsAuthor."""

        async def change(conn: Any, version: AgentVersion, decision: PolicyDecision) -> None:
            require_state(version, "IN_REVIEW", to="reviewed")
            require_other_eyes(version, caller)
            state = "APPROVED" if approve else "REJECTED"
            await self._store.review(conn, version, state, caller.subject, message)
            kind = "agent.approved" if approve else "agent.rejected"
            await self._record(conn, caller, kind, version, decision, message=message)

        return await self._change(caller, "ReviewAgent", name, number, key, change)

    async def promote(self, caller: Caller, name: str, number: int, key: RequestKey) -> Agent:
        """Make an APPROVED version the one that runs use."""

        async def change(conn: Any, version: AgentVersion, decision: PolicyDecision) -> None:
            require_state(version, "APPROVED", to="promoted")
            if not version.in_production:
                await self._store.promote(conn, caller.tenant, name, number, caller.subject)
                await self._record(conn, caller, "agent.promoted", version, decision)

        await self._change(caller, "PromoteAgent", name, number, key, change)
        async with self._transaction() as conn:
            return await self._agent(conn, caller, name)

    async def roll_back(self, caller: Caller, name: str, key: RequestKey) -> Agent:
        """Promote the version that was in production before. Raises NothingToRollBack."""

        async def produce(conn: Any) -> bytes:
            await self._agent(conn, caller, name)
            await self._store.lock(conn, caller.tenant, name)
            decision = self._policy.authorize(caller, "PromoteAgent", agent_resource(caller.tenant, name))
            number = await self._store.roll_back(conn, caller.tenant, name)
            if number is None:
                raise NothingToRollBack(f"no earlier version of {name} was in production")
            version = await self._version(conn, caller, name, number)
            await self._record(conn, caller, "agent.rolled_back", version, decision)
            return b""

        async with self._transaction() as conn:
            await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            return await self._agent(conn, caller, name)

    async def _change(
        self, caller: Caller, action: str, name: str, number: int, key: RequestKey, change: Change
    ) -> AgentVersion:
        async def produce(conn: Any) -> bytes:
            await self._store.lock(conn, caller.tenant, name)
            version = await self._version(conn, caller, name, number)
            decision = self._policy.authorize(caller, action, agent_resource(caller.tenant, name))
            await change(conn, version, decision)
            return b""

        async with self._transaction() as conn:
            await once(conn, caller, key.method, key.request_id, key.fingerprint, lambda: produce(conn))
            return await self._version(conn, caller, name, number)

    async def _agent(self, conn: Any, caller: Caller, name: str) -> Agent:
        agent = await self._store.get(conn, caller.tenant, name)
        if agent is None:
            raise _no_agent(name)
        return agent

    async def _version(self, conn: Any, caller: Caller, name: str, number: int) -> AgentVersion:
        version = await self._store.version(conn, caller.tenant, name, number)
        if version is None:
            await self._agent(conn, caller, name)
            raise AgentVersionNotFound(f"agent {name} has no version {number}")
        return version

    async def _record(
        self,
        conn: Any,
        caller: Caller,
        kind: str,
        version: AgentVersion,
        decision: PolicyDecision,
        **more: JsonValue,
    ) -> None:
        sealed = self._evidence.seal(
            kind,
            caller=caller,
            subject=caller.subject,
            resource=f"agent:{version.agent}@{version.version}",
            data={"agent": version.agent, "version": version.version, "digest": version.digest, **more},
            time=datetime.now(UTC),
            policy=decision,
            trace_id=current_trace_id(),
        )
        await self._evidence.record(conn, sealed, subject=caller.subject)


def _read(source: str, problems: Problems) -> tuple[Node | None, Parsed | None]:
    root = read_yaml(source, problems)
    return root, parse(root, problems) if root is not None else None


@lru_cache(maxsize=256)
def stored_definition(text: str) -> Definition:
    """The definition of a version that was registered. ValueError when this code cannot read it."""
    problems = Problems()
    parsed = parse(from_json(json.loads(text)), problems)
    if parsed is None or problems:
        raise ValueError("the stored definition cannot be read")
    return parsed.definition


def _no_agent(name: str) -> AgentNotFound:
    return AgentNotFound(f"there is no agent {name}")
