"""gRPC: slipway.agents.v1."""

import hashlib

from google.protobuf.message import Message
from slipway.agents.v1 import agents_pb2, agents_pb2_grpc
from slipway_chassis.caller import current_caller
from slipway_chassis.paging import decode_token, encode_token, page_size

from slipway_orchestrator import convert
from slipway_orchestrator.kill_switch import KillSwitch
from slipway_orchestrator.once import RequestKey
from slipway_orchestrator.registry import AgentRegistry

_MANY, _DEFAULT = 200, 50
_NEWEST = 2**31 - 1


class AgentsServicer(agents_pb2_grpc.AgentsServiceServicer):
    """Converts and calls the registry and the kill switch."""

    def __init__(self, registry: AgentRegistry, switch: KillSwitch) -> None:
        self._registry = registry
        self._switch = switch

    async def PutAgent(self, request: agents_pb2.PutAgentRequest, context: object) -> agents_pb2.PutAgentResponse:
        """Register a definition."""
        key = request_key("PutAgent", request, request.request_id)
        version, created = await self._registry.put(current_caller(), request.agent, request.definition_yaml, key)
        return agents_pb2.PutAgentResponse(version=convert.version_message(version), created=created)

    async def GetAgent(self, request: agents_pb2.GetAgentRequest, context: object) -> agents_pb2.GetAgentResponse:
        """Answer with an agent."""
        agent = await self._registry.get(current_caller(), request.agent)
        return agents_pb2.GetAgentResponse(agent=convert.agent_message(agent))

    async def ListAgents(self, request: agents_pb2.ListAgentsRequest, context: object) -> agents_pb2.ListAgentsResponse:
        """Page through agents by name."""
        caller, limit = current_caller(), page_size(request.page_size, _DEFAULT, _MANY)
        cursor = decode_token(caller.tenant, "ListAgents", request.page_token, (str,))
        agents = await self._registry.page(caller, str(cursor[0]) if cursor else "", limit + 1)
        token = encode_token(caller.tenant, "ListAgents", agents[limit - 1].name) if len(agents) > limit else ""
        return agents_pb2.ListAgentsResponse(
            agents=[convert.agent_message(agent) for agent in agents[:limit]], next_page_token=token
        )

    async def GetAgentVersion(
        self, request: agents_pb2.GetAgentVersionRequest, context: object
    ) -> agents_pb2.GetAgentVersionResponse:
        """Answer with one version."""
        version = await self._registry.version(current_caller(), request.agent, request.version)
        return agents_pb2.GetAgentVersionResponse(version=convert.version_message(version))

    async def ListAgentVersions(
        self, request: agents_pb2.ListAgentVersionsRequest, context: object
    ) -> agents_pb2.ListAgentVersionsResponse:
        """Page through versions, newest first."""
        caller, limit = current_caller(), page_size(request.page_size, _DEFAULT, _MANY)
        method = f"ListAgentVersions/{request.agent}"
        cursor = decode_token(caller.tenant, method, request.page_token, (int,))
        below = int(cursor[0]) if cursor else _NEWEST
        versions = await self._registry.versions(caller, request.agent, below, limit + 1)
        token = encode_token(caller.tenant, method, versions[limit - 1].version) if len(versions) > limit else ""
        return agents_pb2.ListAgentVersionsResponse(
            versions=[convert.version_message(version, whole=False) for version in versions[:limit]],
            next_page_token=token,
        )

    async def SubmitAgentVersion(
        self, request: agents_pb2.SubmitAgentVersionRequest, context: object
    ) -> agents_pb2.SubmitAgentVersionResponse:
        """Ask for review."""
        key = request_key("SubmitAgentVersion", request, request.request_id)
        version = await self._registry.submit(current_caller(), request.agent, request.version, key)
        return agents_pb2.SubmitAgentVersionResponse(version=convert.version_message(version))

    async def ApproveAgentVersion(
        self, request: agents_pb2.ApproveAgentVersionRequest, context: object
    ) -> agents_pb2.ApproveAgentVersionResponse:
        """Approve a version."""
        key = request_key("ApproveAgentVersion", request, request.request_id)
        version = await self._registry.review(
            current_caller(), request.agent, request.version, key, approve=True, message=request.message
        )
        return agents_pb2.ApproveAgentVersionResponse(version=convert.version_message(version))

    async def RejectAgentVersion(
        self, request: agents_pb2.RejectAgentVersionRequest, context: object
    ) -> agents_pb2.RejectAgentVersionResponse:
        """Reject a version."""
        key = request_key("RejectAgentVersion", request, request.request_id)
        version = await self._registry.review(
            current_caller(), request.agent, request.version, key, approve=False, message=request.message
        )
        return agents_pb2.RejectAgentVersionResponse(version=convert.version_message(version))

    async def PromoteAgentVersion(
        self, request: agents_pb2.PromoteAgentVersionRequest, context: object
    ) -> agents_pb2.PromoteAgentVersionResponse:
        """Put a version into production."""
        key = request_key("PromoteAgentVersion", request, request.request_id)
        agent = await self._registry.promote(current_caller(), request.agent, request.version, key)
        return agents_pb2.PromoteAgentVersionResponse(agent=convert.agent_message(agent))

    async def RollbackAgent(
        self, request: agents_pb2.RollbackAgentRequest, context: object
    ) -> agents_pb2.RollbackAgentResponse:
        """Put the version before back into production."""
        key = request_key("RollbackAgent", request, request.request_id)
        agent = await self._registry.roll_back(current_caller(), request.agent, key)
        return agents_pb2.RollbackAgentResponse(agent=convert.agent_message(agent))

    async def SuspendAgent(
        self, request: agents_pb2.SuspendAgentRequest, context: object
    ) -> agents_pb2.SuspendAgentResponse:
        """Pull an agent's kill switch."""
        key = request_key("SuspendAgent", request, request.request_id)
        agent = await self._switch.suspend_agent(current_caller(), request.agent, request.reason, key)
        return agents_pb2.SuspendAgentResponse(agent=convert.agent_message(agent))

    async def ResumeAgent(
        self, request: agents_pb2.ResumeAgentRequest, context: object
    ) -> agents_pb2.ResumeAgentResponse:
        """Lift an agent's kill switch."""
        key = request_key("ResumeAgent", request, request.request_id)
        agent = await self._switch.resume_agent(current_caller(), request.agent, key)
        return agents_pb2.ResumeAgentResponse(agent=convert.agent_message(agent))

    async def GetSuspension(
        self, request: agents_pb2.GetSuspensionRequest, context: object
    ) -> agents_pb2.GetSuspensionResponse:
        """The wide kill switches."""
        found = await self._switch.get(current_caller())
        return agents_pb2.GetSuspensionResponse(suspensions=[convert.suspension_message(one) for one in found])

    async def PutSuspension(
        self, request: agents_pb2.PutSuspensionRequest, context: object
    ) -> agents_pb2.PutSuspensionResponse:
        """Pull or lift a wide kill switch."""
        scope = convert.wide_scope(request.scope)
        found = await self._switch.put(current_caller(), scope, suspended=request.suspended, reason=request.reason)
        return agents_pb2.PutSuspensionResponse(suspensions=[convert.suspension_message(one) for one in found])


def request_key(method: str, request: Message, request_id: str) -> RequestKey:
    """The idempotency key of a request: the same only for the same message.

    A grant is new with each request and says nothing of what is asked for; it does not count.
    """
    counted = type(request)()
    counted.CopyFrom(request)
    for name in counted.DESCRIPTOR.fields_by_name:
        if name in ("run_grant", "schedule_grant"):
            counted.ClearField(name)
    fingerprint = hashlib.sha256(counted.SerializeToString(deterministic=True)).digest()
    return RequestKey(method, request_id, fingerprint)
