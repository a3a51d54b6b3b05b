"""Kill switches: of an agent, of the tenant, of everything."""

from slipway.agents.v1 import agents_pb2 as pb

from slipway_gateway.http.api import api_router
from slipway_gateway.http.resources.agents import (
    Agent,
    PutSuspension,
    SuspendAgent,
    Suspensions,
    agent_resource,
    suspension,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey
from slipway_gateway.http.routes.agents import AgentName

router = api_router("suspension")

# Every run that is under way is told.
LONG_SECONDS = 60.0


@router.post("/agents/{agent}/suspend", summary="Suspend an agent")
async def suspend_agent(agent: AgentName, body: SuspendAgent, calls: CallsDep, request_id: IdempotencyKey) -> Agent:
    """No run of the agent starts (409), and those under way pause, until the agent is resumed."""
    answer: pb.SuspendAgentResponse = await calls.invoke(
        calls.peers.agents.SuspendAgent,
        pb.SuspendAgentRequest(agent=agent, reason=body.reason, request_id=request_id),
        timeout=LONG_SECONDS,
    )
    return agent_resource(answer.agent)


@router.post("/agents/{agent}/resume", summary="Resume an agent")
async def resume_agent(agent: AgentName, calls: CallsDep, request_id: IdempotencyKey) -> Agent:
    """Runs start again, and those that the suspension paused go on."""
    answer: pb.ResumeAgentResponse = await calls.invoke(
        calls.peers.agents.ResumeAgent,
        pb.ResumeAgentRequest(agent=agent, request_id=request_id),
        timeout=LONG_SECONDS,
    )
    return agent_resource(answer.agent)


@router.get("/suspension", summary="Get the wide kill switches")
async def get_suspension(calls: CallsDep) -> Suspensions:
    """The tenant's suspension and everybody's, where there is one."""
    answer: pb.GetSuspensionResponse = await calls.invoke(calls.peers.agents.GetSuspension, pb.GetSuspensionRequest())
    return Suspensions(suspensions=[suspension(one) for one in answer.suspensions])


@router.put("/suspension", summary="Suspend or resume the tenant, or everything")
async def put_suspension(body: PutSuspension, calls: CallsDep) -> Suspensions:
    """The same change twice is one change; resuming once more reaches runs that were left paused."""
    answer: pb.PutSuspensionResponse = await calls.invoke(
        calls.peers.agents.PutSuspension,
        pb.PutSuspensionRequest(
            scope=pb.SuspensionScope.Value(f"SUSPENSION_SCOPE_{body.scope}"),
            suspended=body.suspended,
            reason=body.reason,
        ),
        timeout=LONG_SECONDS,
    )
    return Suspensions(suspensions=[suspension(one) for one in answer.suspensions])
