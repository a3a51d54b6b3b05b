"""Agent definitions and their way to production."""

from typing import Annotated, Any

from fastapi import Path, Request, Response
from slipway.agents.v1 import agents_pb2 as pb
from slipway_chassis.errors import InvalidArgument

from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.rejections import BodyTooLarge, MediaTypeUnsupported
from slipway_gateway.http.resources.agents import (
    Agent,
    AgentPage,
    AgentVersion,
    AgentVersionPage,
    Rejection,
    Review,
    agent_resource,
    agent_version,
)
from slipway_gateway.http.route import CallsDep, IdempotencyKey

router = api_router("agents")

MAX_DEFINITION_BYTES = 1 << 20
PUT_SECONDS = 60.0
"""The largest definition takes seconds of processor time to read and check."""
_DEFINITION_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "application/json"})

AgentName = Annotated[str, Path(min_length=1, max_length=200)]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]

_DEFINITION_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The definition: YAML or JSON, at most 1 MiB.",
        "content": {
            "application/yaml": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},
        },
    }
}


@router.put(
    "/agents/{agent}",
    status_code=201,
    openapi_extra=_DEFINITION_BODY,
    responses={200: {"model": AgentVersion, "description": "The definition was known: its version."}},
    summary="Register a definition",
)
async def put_agent(
    agent: AgentName, request: Request, calls: CallsDep, request_id: IdempotencyKey, response: Response
) -> AgentVersion:
    """The same definition answers 200 with the version that exists, another one 201 with a new version.

    A definition that does not hold is 422; `violations` name the paths into the YAML.
    """
    definition = await _definition(request)
    answer: pb.PutAgentResponse = await calls.invoke(
        calls.peers.agents.PutAgent,
        pb.PutAgentRequest(agent=agent, definition_yaml=definition, request_id=request_id),
        timeout=PUT_SECONDS,
    )
    response.status_code = 201 if answer.created else 200
    return agent_version(answer.version)


async def _definition(request: Request) -> str:
    content_type = request.headers.get("content-type", "application/yaml").partition(";")[0].strip().lower()
    if content_type not in _DEFINITION_TYPES:
        raise MediaTypeUnsupported("send the definition as application/yaml", field="Content-Type")
    body = await request.body()
    if len(body) > MAX_DEFINITION_BYTES:
        raise BodyTooLarge(f"the definition is larger than {MAX_DEFINITION_BYTES} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"the definition is not UTF-8 (byte {error.start})", field="definition") from None
    if not text.strip():
        raise InvalidArgument("the definition is empty", field="definition")
    return text


@router.get("/agents", summary="List agents")
async def list_agents(calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = "") -> AgentPage:
    """The tenant's agents, by name."""
    answer: pb.ListAgentsResponse = await calls.invoke(
        calls.peers.agents.ListAgents, pb.ListAgentsRequest(page_size=page_size, page_token=page_token)
    )
    return AgentPage(
        agents=[agent_resource(item) for item in answer.agents], next_page_token=answer.next_page_token or None
    )


@router.get("/agents/{agent}", summary="Get an agent")
async def get_agent(agent: AgentName, calls: CallsDep) -> Agent:
    """One agent, with the version in production."""
    answer: pb.GetAgentResponse = await calls.invoke(calls.peers.agents.GetAgent, pb.GetAgentRequest(agent=agent))
    return agent_resource(answer.agent)


@router.get("/agents/{agent}/versions", summary="List an agent's versions")
async def list_agent_versions(
    agent: AgentName, calls: CallsDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> AgentVersionPage:
    """Newest first."""
    answer: pb.ListAgentVersionsResponse = await calls.invoke(
        calls.peers.agents.ListAgentVersions,
        pb.ListAgentVersionsRequest(agent=agent, page_size=page_size, page_token=page_token),
    )
    return AgentVersionPage(
        versions=[agent_version(item) for item in answer.versions], next_page_token=answer.next_page_token or None
    )


@router.get("/agents/{agent}/versions/{version}", summary="Get a version")
async def get_agent_version(agent: AgentName, version: VersionNumber, calls: CallsDep) -> AgentVersion:
    """One version, with its definition as it was sent."""
    answer: pb.GetAgentVersionResponse = await calls.invoke(
        calls.peers.agents.GetAgentVersion, pb.GetAgentVersionRequest(agent=agent, version=version)
    )
    return agent_version(answer.version)


@router.post("/agents/{agent}/versions/{version}/submit", summary="Ask for review")
async def submit_agent_version(
    agent: AgentName, version: VersionNumber, calls: CallsDep, request_id: IdempotencyKey
) -> AgentVersion:
    """DRAFT or REJECTED to IN_REVIEW."""
    answer: pb.SubmitAgentVersionResponse = await calls.invoke(
        calls.peers.agents.SubmitAgentVersion,
        pb.SubmitAgentVersionRequest(agent=agent, version=version, request_id=request_id),
    )
    return agent_version(answer.version)


@router.post("/agents/{agent}/versions/{version}/approve", summary="Approve a version")
async def approve_agent_version(
    agent: AgentName, version: VersionNumber, calls: CallsDep, request_id: IdempotencyKey, body: Review | None = None
) -> AgentVersion:
    """IN_REVIEW to APPROVED, by somebody who is neither author nor submitter."""
    answer: pb.ApproveAgentVersionResponse = await calls.invoke(
        calls.peers.agents.ApproveAgentVersion,
        pb.ApproveAgentVersionRequest(
            agent=agent, version=version, message=body.message if body else "", request_id=request_id
        ),
    )
    return agent_version(answer.version)


@router.post("/agents/{agent}/versions/{version}/reject", summary="Turn a version down")
async def reject_agent_version(
    agent: AgentName, version: VersionNumber, body: Rejection, calls: CallsDep, request_id: IdempotencyKey
) -> AgentVersion:
    """IN_REVIEW to REJECTED; the message says why."""
    answer: pb.RejectAgentVersionResponse = await calls.invoke(
        calls.peers.agents.RejectAgentVersion,
        pb.RejectAgentVersionRequest(agent=agent, version=version, message=body.message, request_id=request_id),
    )
    return agent_version(answer.version)


@router.post("/agents/{agent}/versions/{version}/promote", summary="Bring a version into production")
async def promote_agent_version(
    agent: AgentName, version: VersionNumber, calls: CallsDep, request_id: IdempotencyKey
) -> Agent:
    """Runs that start from now on use it."""
    answer: pb.PromoteAgentVersionResponse = await calls.invoke(
        calls.peers.agents.PromoteAgentVersion,
        pb.PromoteAgentVersionRequest(agent=agent, version=version, request_id=request_id),
    )
    return agent_resource(answer.agent)


@router.post("/agents/{agent}/rollback", summary="Go back to the version before")
async def rollback_agent(agent: AgentName, calls: CallsDep, request_id: IdempotencyKey) -> Agent:
    """The version that was in production before is in production again."""
    answer: pb.RollbackAgentResponse = await calls.invoke(
        calls.peers.agents.RollbackAgent, pb.RollbackAgentRequest(agent=agent, request_id=request_id)
    )
    return agent_resource(answer.agent)
