"""Small real executors: router, memory, tools and identity on one gRPC server, counting effects by key.

Like the real ones they verify caller tokens, keep an answer by effect key, and refuse an older epoch.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from slipway.effects.v1 import effects_pb2
from slipway.identity.v1 import identity_pb2, identity_pb2_grpc
from slipway.memory.v1 import memory_pb2, memory_pb2_grpc
from slipway.router.v1 import router_pb2, router_pb2_grpc
from slipway.tools.v1 import tools_pb2, tools_pb2_grpc
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import Aborted, NotFound, PermissionDenied, Unavailable
from slipway_chassis.interceptors import ServerInterceptor
from slipway_chassis.jcs import digest
from slipway_chassis.tokens import CallerTokenVerifier

PASSAGE = "Refunds above 30 days are not possible. A refund within 30 days is paid in full."
ANSWER = "A refund within 30 days is paid in full."


class StaleEpoch(Aborted):
    reason = "STALE_EPOCH"


class GrantRevoked(PermissionDenied):
    reason = "GRANT_REVOKED"


class SubjectDisabled(PermissionDenied):
    reason = "SUBJECT_DISABLED"


class ModelUnknown(NotFound):
    reason = "MODEL_UNKNOWN"


class EffectUncertain(Aborted):
    reason = "EFFECT_UNCERTAIN"


@dataclass
class World:
    """What the executors do and what they saw."""

    effects: Counter[str] = field(default_factory=Counter)
    """How often each effect was really done, by key."""
    calls: Counter[str] = field(default_factory=Counter)
    """How often each effect was asked for, by key."""
    epochs: dict[str, int] = field(default_factory=dict)
    answers: dict[tuple[str, int], Any] = field(default_factory=dict)
    under_way: dict[tuple[str, int], "asyncio.Task[Any]"] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    """Effects whose caller hung up before they were done."""
    callers: list[Any] = field(default_factory=list)
    proofs: dict[str, tools_pb2.ApprovalProof] = field(default_factory=dict)
    chats: list[router_pb2.ChatRequest] = field(default_factory=list)
    answer: str = ANSWER
    reply: Callable[[router_pb2.ChatRequest], str | list[tuple[str, str]]] | None = None
    """What the model says: a text, or calls as pairs of name and arguments. None: `answer`."""
    said: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Messages of sessions: role and content."""
    tool: Callable[[str, Any, int], Awaitable[Any]] | None = None
    """Behaviour of the tools: name, arguments and attempt to output; may raise."""
    guarded: set[str] = field(default_factory=set)
    """Tools that policy lets act on what came from outside with an approval only."""
    outside: set[str] = field(default_factory=set)
    """Tools whose answers come from outside."""
    tainted: set[str] = field(default_factory=set)
    """Steps whose tool was told that its arguments derive from what came from outside."""
    revoked: bool = False
    disabled: bool = False
    away: set[str] = field(default_factory=set)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def once(self, effect: effects_pb2.EffectKey, act: Callable[[], Awaitable[Any]]) -> Any:
        self.calls[effect.key] += 1
        self.callers.append(current_caller())
        if effect.epoch < self.epochs.get(effect.key, 0):
            raise StaleEpoch("an older epoch")
        self.epochs[effect.key] = effect.epoch
        known = self.answers.get((effect.key, effect.attempt)) or self.answers.get((effect.key, 0))
        if known is not None:
            return known
        # Like a real one, it ends what it has begun although whoever asked is gone, and is asked only once at a time.
        under_way = self.under_way.get((effect.key, effect.attempt))
        if under_way is None:
            under_way = asyncio.create_task(self._do(effect, act))
            self.under_way[(effect.key, effect.attempt)] = under_way
        try:
            return await asyncio.shield(under_way)
        except asyncio.CancelledError:
            self.left.add(effect.key)
            raise

    async def _do(self, effect: effects_pb2.EffectKey, act: Callable[[], Awaitable[Any]]) -> Any:
        self.effects[effect.key] += 1
        try:
            known = await act()
        finally:
            del self.under_way[(effect.key, effect.attempt)]
        failed = isinstance(known, tools_pb2.InvokeToolResponse) and known.HasField("error")
        self.answers[(effect.key, effect.attempt if failed else 0)] = known
        return known


def _record(key: str) -> effects_pb2.RecordRef:
    return effects_pb2.RecordRef(event_id="aev_" + key, commitment="ab" * 32)


class Router(router_pb2_grpc.RouterServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def ExplainRoute(self, request: Any, context: Any) -> Any:
        if "nope" in request.chat.model + request.chat.task:
            raise ModelUnknown(f"there is no model or task {request.chat.model or request.chat.task}")
        return router_pb2.ExplainRouteResponse(route="default")

    async def StreamChatCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:
        world, chat = self.world, request.chat

        async def act() -> tuple[str | list[tuple[str, str]]]:
            world.chats.append(chat)
            return (world.answer if world.reply is None else world.reply(chat),)

        (said,) = await world.once(chat.effect, act)
        text = said if isinstance(said, str) else ""
        message = router_pb2.StreamChatCompletionResponse
        yield message(started=router_pb2.StreamStarted(model="test-model", attempts=1))
        for word in text.split(" ") if text else []:
            yield message(content_delta=word + " ")
        for number, (name, arguments) in enumerate(() if isinstance(said, str) else said):
            call = router_pb2.ToolCall(id=f"call-{number}", name=name, arguments_json=arguments)
            yield message(tool_call=call)
        usage = router_pb2.Usage(input_tokens=10, output_tokens=5, cost=Money(currency_code="USD", nanos=1_000_000))
        yield message(
            finished=router_pb2.StreamFinished(finish_reason="stop", usage=usage, record=_record(chat.effect.key))
        )


class Knowledge(memory_pb2_grpc.KnowledgeServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def GetCollection(self, request: Any, context: Any) -> Any:
        if request.collection != "handbook":
            raise NotFound("no such collection")
        return memory_pb2.GetCollectionResponse(collection=memory_pb2.Collection(collection="handbook"))

    async def SearchCollection(self, request: Any, context: Any) -> Any:
        async def act() -> Any:
            passage = memory_pb2.Passage(
                passage_id="p1", document="policy.md", title="Policy", headings=["Refunds"], page=2, text=PASSAGE
            )
            return memory_pb2.SearchCollectionResponse(passages=[passage], record=_record(request.effect.key))

        return await self.world.once(request.effect, act)


class Sessions(memory_pb2_grpc.SessionsServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: set[str] = set()

    async def ListSessionMessages(self, request: Any, context: Any) -> Any:
        said = self.world.said.get(request.session_id, [])
        messages = [memory_pb2.SessionMessage(role=role, content=content) for role, content in said]
        return memory_pb2.ListSessionMessagesResponse(messages=messages)

    async def AppendSessionMessages(self, request: Any, context: Any) -> Any:
        if request.request_id not in self.seen:
            self.seen.add(request.request_id)
            added = [(message.role, message.content) for message in request.messages]
            self.world.said.setdefault(request.session_id, []).extend(added)
        return memory_pb2.AppendSessionMessagesResponse()


_SCHEMAS: dict[str, Any] = {
    "python": {
        "type": "object",
        "required": ["code"],
        "properties": {"code": {"type": "string"}, "files": {"type": "object"}},
        "additionalProperties": False,
    },
    "ledger.post": {
        "type": "object",
        "required": ["amount"],
        "properties": {"amount": {"type": "number"}, "note": {"type": "string"}},
        "additionalProperties": False,
    },
}


class Tools(tools_pb2_grpc.ToolsServiceServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def DescribeTool(self, request: Any, context: Any) -> Any:
        if "tools" in self.world.away:
            raise Unavailable("away")
        if request.tool not in _SCHEMAS:
            raise NotFound("no such tool")
        schema = json.dumps(_SCHEMAS[request.tool])
        return tools_pb2.DescribeToolResponse(
            tool=tools_pb2.Tool(tool=request.tool, input_schema_json=schema),
            allowed=True,
            approval_required=request.arguments_tainted and request.tool in self.world.guarded,
        )

    async def CancelInvocation(self, request: Any, context: Any) -> Any:
        for (key, _), task in list(self.world.under_way.items()):
            if key == request.effect.key:
                task.cancel()
        return tools_pb2.CancelInvocationResponse(stopped=True)

    async def InvokeTool(self, request: Any, context: Any) -> Any:
        world = self.world
        arguments = json.loads(request.arguments_json)

        async def act() -> Any:
            if request.HasField("approval"):
                assert request.approval.arguments_digest == digest(arguments)
                world.proofs[request.effect.key] = request.approval
            if request.arguments_tainted:
                world.tainted.add(request.effect.key.split("/")[1])
            if world.tool is not None:
                output = await world.tool(request.tool, arguments, request.effect.attempt)
            else:
                output = {"refund": 120} if request.tool == "python" else {"posted": arguments["amount"]}
            if isinstance(output, tools_pb2.ToolError):
                return tools_pb2.InvokeToolResponse(error=output, record=_record(request.effect.key))
            return tools_pb2.InvokeToolResponse(
                output_json=json.dumps(output),
                duration_ms=1,
                record=_record(request.effect.key),
                output_tainted=request.arguments_tainted or request.tool in world.outside,
            )

        return await world.once(request.effect, act)


class Identity(identity_pb2_grpc.IdentityServiceServicer):
    def __init__(self, world: World, signing: Any) -> None:
        self.world, self.signing = world, signing

    async def IssueServiceToken(self, request: Any, context: Any) -> Any:
        token = self.signing.service_token(request.service, request.tenant)
        return identity_pb2.IssueServiceTokenResponse(token=token, expire_time=_soon())

    async def ListUnknownPrincipals(self, request: Any, context: Any) -> Any:
        unknown = [principal for principal in request.principals if "nobody" in principal]
        return identity_pb2.ListUnknownPrincipalsResponse(unknown=unknown)

    async def ExchangeRunGrant(self, request: Any, context: Any) -> Any:
        if self.world.revoked:
            raise GrantRevoked("revoked")
        subject, tenant, agent = request.run_grant.split("/")
        token = self.signing.token(
            subject, tenant, act=f"{request.agent or agent}@{request.version}", run_id=request.run_id
        )
        return identity_pb2.ExchangeRunGrantResponse(token=token, expire_time=_soon())

    async def IssueScheduledRunGrant(self, request: Any, context: Any) -> Any:
        if "identity" in self.world.away:
            raise Unavailable("away")
        if self.world.disabled:
            raise SubjectDisabled("alice is disabled or no longer exists")
        subject, tenant, agent = request.schedule_grant.split("/")
        assert agent == request.agent
        token = self.signing.token(subject, tenant, ["developer", "operator"])
        return identity_pb2.IssueScheduledRunGrantResponse(
            run_grant=request.schedule_grant, token=token, schedule_grant=request.schedule_grant
        )


def _soon() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    stamp.seconds += 300
    return stamp


async def serve(world: World, signing: Any) -> tuple[grpc.aio.Server, str]:
    """The executors on one port."""
    public = frozenset({"/slipway.identity.v1.IdentityService/IssueServiceToken"})
    server = grpc.aio.server(interceptors=[ServerInterceptor(CallerTokenVerifier(signing.jwks_file), public)])
    router_pb2_grpc.add_RouterServiceServicer_to_server(Router(world), server)
    memory_pb2_grpc.add_KnowledgeServiceServicer_to_server(Knowledge(world), server)
    memory_pb2_grpc.add_SessionsServiceServicer_to_server(Sessions(world), server)
    tools_pb2_grpc.add_ToolsServiceServicer_to_server(Tools(world), server)
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(Identity(world, signing), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, f"127.0.0.1:{port}"
