"""Agents and their versions, and which change of state is allowed to whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from slipway_chassis.caller import Caller
from slipway_chassis.policy import Resource

from slipway_orchestrator.errors import IllegalTransition, ReviewerIsAuthor
from slipway_orchestrator.suspension import Suspension


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """One immutable definition and where it stands."""

    tenant: str
    agent: str
    version: int
    digest: str
    state: str
    source: str
    """The definition as it was sent."""
    definition: str
    """Its values as JSON text."""
    author: str
    submitter: str
    reviewer: str
    review_message: str
    create_time: datetime
    update_time: datetime
    in_production: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """A name with versions."""

    tenant: str
    name: str
    description: str
    labels: Mapping[str, str]
    latest_version: int
    production_version: int
    """0: none."""
    create_time: datetime
    update_time: datetime
    suspension: Suspension | None
    """Its own kill switch, if that is pulled."""


def agent_resource(tenant: str, name: str) -> Resource:
    """An agent as policies see it."""
    return Resource("Agent", f"{tenant}/{name}", tenant, {"name": name})


def require_state(version: AgentVersion, *allowed: str, to: str) -> None:
    """Raise IllegalTransition unless the version is in one of the states."""
    if version.state not in allowed:
        raise IllegalTransition(
            f"version {version.version} of {version.agent} is {version.state}; only {' or '.join(allowed)} can be {to}",
            metadata={"state": version.state},
        )


def require_other_eyes(version: AgentVersion, caller: Caller) -> None:
    """Raise ReviewerIsAuthor when the caller wrote or submitted the version."""
    if caller.person in (version.author, version.submitter):
        raise ReviewerIsAuthor(f"{caller.person} wrote or submitted this version; somebody else must review it")
