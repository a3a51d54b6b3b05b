"""The services that the orchestrator calls: connections, and the lookups at registration."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.effects.v1 import effects_pb2
from slipway.identity.v1 import identity_pb2, identity_pb2_grpc
from slipway.memory.v1 import memory_pb2, memory_pb2_grpc
from slipway.router.v1 import router_pb2, router_pb2_grpc
from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis.caller import current_token
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.tls import ServiceTls

from slipway_orchestrator.core.actions import Perform
from slipway_orchestrator.definitions.catalogue import ToolDescription

_LOOK_UP = 10.0  # seconds
_CANCEL = 3.0
_HIDDEN = (ErrorKind.NOT_FOUND, ErrorKind.PERMISSION_DENIED, ErrorKind.INVALID_ARGUMENT)


@dataclass(frozen=True, slots=True)
class Peers:
    """Stubs of the services below."""

    router: router_pb2_grpc.RouterServiceStub
    knowledge: memory_pb2_grpc.KnowledgeServiceStub
    sessions: memory_pb2_grpc.SessionsServiceStub
    tools: tools_pb2_grpc.ToolsServiceStub
    identity: identity_pb2_grpc.IdentityServiceStub
    channels: tuple[Any, ...]

    @classmethod
    def at(cls, router: str, memory: str, tools: str, identity: str, tls: ServiceTls | None = None) -> "Peers":
        """Connections to these targets; they are made at the first call."""
        channels = connect(router, tls), connect(memory, tls), connect(tools, tls), connect(identity, tls)
        return cls(
            router_pb2_grpc.RouterServiceStub(channels[0]),
            memory_pb2_grpc.KnowledgeServiceStub(channels[1]),
            memory_pb2_grpc.SessionsServiceStub(channels[1]),
            tools_pb2_grpc.ToolsServiceStub(channels[2]),
            identity_pb2_grpc.IdentityServiceStub(channels[3]),
            channels,
        )

    async def close(self) -> None:
        """Close the connections."""
        for channel in self.channels:
            await channel.close()

    async def cancel_tool(self, run_id: str, perform: Perform, epoch: int, token: str) -> None:
        """Stop a call that the run has under way. Raises what the tools service raises."""
        key = f"{run_id}/{perform.at.key}/{perform.occurrence}"
        effect = effects_pb2.EffectKey(key=key, epoch=epoch, attempt=perform.attempt)
        request = tools_pb2.CancelInvocationRequest(effect=effect)
        await invoke(self.tools.CancelInvocation, request, token=token, timeout=_CANCEL)

    async def describe_tool(self, name: str, token: str) -> ToolDescription:
        """A tool as the token's bearer may see it. Raises what the tools service raises."""
        request = tools_pb2.DescribeToolRequest(tool=name, arguments_tainted=True)
        response: tools_pb2.DescribeToolResponse = await invoke(
            self.tools.DescribeTool, request, token=token, timeout=_LOOK_UP
        )
        tool = response.tool
        return ToolDescription(
            tool.tool,
            tool.digest,
            json.loads(tool.input_schema_json or "{}"),
            json.loads(tool.output_schema_json or "{}"),
            tool.description,
            response.approval_required,
        )


class CallersCatalogue:
    """`definitions.catalogue.Catalogue` for the caller of the current call."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def tool(self, name: str) -> ToolDescription | None:
        """The tool; None when the caller can see none of that name. Raises Unavailable."""
        try:
            return await self._peers.describe_tool(name, current_token())
        except SlipwayError as error:
            if error.kind in _HIDDEN:
                return None
            raise

    async def has_collection(self, name: str) -> bool:
        """Whether the caller can see the collection. Raises Unavailable."""
        request = memory_pb2.GetCollectionRequest(collection=name)
        try:
            await invoke(self._peers.knowledge.GetCollection, request, token=current_token(), timeout=_LOOK_UP)
        except SlipwayError as error:
            if error.kind in _HIDDEN:
                return False
            raise
        return True

    async def model_fault(self, model: str, task: str) -> str | None:
        """Why no model of that name, or for that task, can be had; None when one can. Raises Unavailable."""
        request = router_pb2.ExplainRouteRequest(chat=router_pb2.ChatRequest(model=model, task=task))
        try:
            await invoke(self._peers.router.ExplainRoute, request, token=current_token(), timeout=_LOOK_UP)
        except SlipwayError as error:
            if error.kind in _HIDDEN:
                return str(error)
            raise
        return None

    async def unknown_approvers(self, approvers: Sequence[str]) -> Collection[str]:
        """Those of the roles and users that nobody knows. Raises Unavailable."""
        request = identity_pb2.ListUnknownPrincipalsRequest(principals=approvers)
        response: identity_pb2.ListUnknownPrincipalsResponse = await invoke(
            self._peers.identity.ListUnknownPrincipals, request, token=current_token(), timeout=_LOOK_UP
        )
        return set(response.unknown)
