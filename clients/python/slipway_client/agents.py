"""Agent definitions and their versions."""

from collections.abc import Iterator

from slipway_client.models import Agent, AgentVersion
from slipway_client.transport import Transport, read, route


class Agents:
    """`/v1/agents`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(self, agent: str, definition_yaml: str) -> AgentVersion:
        """Registers a definition; the same definition answers with the version that exists."""
        answer = self._transport.call(
            "PUT",
            route("agents", agent),
            content=definition_yaml.encode(),
            headers={"Content-Type": "application/yaml"},
        )
        return read(AgentVersion, answer)

    def get(self, agent: str) -> Agent:
        """One agent."""
        return read(Agent, self._transport.call("GET", route("agents", agent)))

    def list(self) -> Iterator[Agent]:
        """The tenant's agents."""
        return self._transport.pages(route("agents"), "agents", Agent)

    def versions(self, agent: str) -> Iterator[AgentVersion]:
        """An agent's versions, newest first."""
        return self._transport.pages(route("agents", agent, "versions"), "versions", AgentVersion)

    def version(self, agent: str, version: int) -> AgentVersion:
        """One version, with its definition."""
        return read(AgentVersion, self._transport.call("GET", route("agents", agent, "versions", version)))

    def submit(self, agent: str, version: int) -> AgentVersion:
        """Asks for review."""
        return read(AgentVersion, self._act(agent, version, "submit"))

    def approve(self, agent: str, version: int, message: str = "") -> AgentVersion:
        """Approves somebody else's version."""
        return read(AgentVersion, self._act(agent, version, "approve", message))

    def reject(self, agent: str, version: int, message: str) -> AgentVersion:
        """Turns a version down."""
        return read(AgentVersion, self._act(agent, version, "reject", message))

    def promote(self, agent: str, version: int) -> Agent:
        """Makes an approved version the one that runs use."""
        return read(Agent, self._act(agent, version, "promote"))

    def rollback(self, agent: str) -> Agent:
        """Goes back to the version that was in production before."""
        return read(Agent, self._transport.call("POST", route("agents", agent, "rollback"), json={}))

    def suspend(self, agent: str, reason: str) -> Agent:
        """Pulls the agent's kill switch: no run starts, and those under way pause."""
        path = route("agents", agent, "suspend")
        return read(Agent, self._transport.call("POST", path, json={"reason": reason}, timeout=90))

    def resume(self, agent: str) -> Agent:
        """Lifts the agent's kill switch."""
        return read(Agent, self._transport.call("POST", route("agents", agent, "resume"), json={}, timeout=90))

    def _act(self, agent: str, version: int, verb: str, message: str = "") -> object:
        body = {"message": message} if message else {}
        return self._transport.call("POST", route("agents", agent, "versions", version, verb), json=body)
