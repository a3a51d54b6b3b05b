"""Agents and their versions."""

from datetime import datetime
from typing import Literal

from pydantic import Field
from slipway.agents.v1 import agents_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Page, Resource, labels_of, state_name, time_of


class AgentVersion(Resource):
    """One immutable definition."""

    agent: str
    version: int
    digest: str = Field(description="`sha256:` and the digest of the canonical definition.")
    state: str = Field(description="`DRAFT`, `IN_REVIEW`, `APPROVED` or `REJECTED`.")
    definition_yaml: str | None = Field(None, description="As it was sent; absent in lists.")
    author: str
    submitter: str
    reviewer: str
    review_message: str
    create_time: datetime | None
    update_time: datetime | None
    in_production: bool


class Suspension(Resource):
    """A kill switch that is pulled."""

    scope: str = Field(description="`AGENT`, `TENANT` or `ALL`.")
    reason: str
    suspended_by: str
    create_time: datetime | None


class Suspensions(Resource):
    """The kill switches that reach the whole tenant, where they are pulled."""

    suspensions: list[Suspension]


class SuspendAgent(Command):
    """Why an agent must stop."""

    reason: str = Field(min_length=1, max_length=1000)


class PutSuspension(Command):
    """A kill switch for all agents of the tenant, or for everything."""

    scope: Literal["TENANT", "ALL"] = "TENANT"
    suspended: bool
    reason: str = Field("", max_length=1000, description="Required to suspend.")


class Agent(Resource):
    """A name with versions."""

    agent: str
    description: str
    labels: dict[str, str]
    production_version: int | None = Field(description="Version that runs use; null: none.")
    latest_version: int
    create_time: datetime | None
    update_time: datetime | None
    suspension: Suspension | None = Field(description="The agent's kill switch, while it is pulled.")


class AgentPage(Page):
    """A page of agents."""

    agents: list[Agent]


class AgentVersionPage(Page):
    """A page of versions, newest first, without their definitions."""

    versions: list[AgentVersion]


class Review(Command):
    """A reviewer's verdict."""

    message: str = Field("", max_length=4000, description="Why.")


class Rejection(Command):
    """A reviewer's refusal."""

    message: str = Field(min_length=1, max_length=4000, description="Why.")


def agent_version(message: pb.AgentVersion) -> AgentVersion:
    """Converts a version."""
    return AgentVersion(
        agent=message.agent,
        version=message.version,
        digest=message.digest,
        state=state_name(pb.AgentVersionState.Name(message.state), "AGENT_VERSION_STATE_"),
        definition_yaml=message.definition_yaml or None,
        author=message.author,
        submitter=message.submitter,
        reviewer=message.reviewer,
        review_message=message.review_message,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
        in_production=message.in_production,
    )


def suspension(message: pb.Suspension) -> Suspension:
    """Converts a kill switch."""
    return Suspension(
        scope=state_name(pb.SuspensionScope.Name(message.scope), "SUSPENSION_SCOPE_"),
        reason=message.reason,
        suspended_by=message.suspended_by,
        create_time=time_of(message, "create_time"),
    )


def agent_resource(message: pb.Agent) -> Agent:
    """Converts an agent."""
    return Agent(
        agent=message.agent,
        description=message.description,
        labels=labels_of(message.labels),
        production_version=message.production_version or None,
        latest_version=message.latest_version,
        suspension=suspension(message.suspension) if message.HasField("suspension") else None,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )
