"""The kill switch: of an agent, of a tenant, of everything.

While it is pulled no run starts in its scope. Runs that are under way pause when they come to their next decision:
those that a worker may hold are told at once, the others are looked at when something wakes them. Lifting it lets the
runs go on that it paused.
"""

from dataclasses import dataclass
from datetime import datetime

from slipway_chassis.errors import FailedPrecondition


class AgentSuspended(FailedPrecondition):
    """The agent's kill switch is pulled."""

    reason = "AGENT_SUSPENDED"


class TenantSuspended(FailedPrecondition):
    """The tenant's kill switch is pulled."""

    reason = "TENANT_SUSPENDED"


class EverythingSuspended(FailedPrecondition):
    """The kill switch of everything is pulled."""

    reason = "EVERYTHING_SUSPENDED"


@dataclass(frozen=True, slots=True)
class SuspensionScope:
    """What a kill switch stops."""

    tenant: str
    """Empty: everybody."""
    agent: str
    """Empty: every agent."""

    @property
    def name(self) -> str:
        """AGENT, TENANT or ALL."""
        if self.agent:
            return "AGENT"
        return "TENANT" if self.tenant else "ALL"


EVERYTHING = SuspensionScope("", "")


@dataclass(frozen=True, slots=True)
class Suspension:
    """A kill switch that is pulled."""

    scope: SuspensionScope
    reason: str
    suspended_by: str
    create_time: datetime

    def covers(self, tenant: str, agent: str) -> bool:
        """Whether it stops an agent of a tenant."""
        return self.scope.tenant in (tenant, "") and self.scope.agent in (agent, "")

    def error(self) -> FailedPrecondition:
        """What whoever starts or resumes a run is told."""
        metadata = {"scope": self.scope.name}
        match self.scope.name:
            case "AGENT":
                message = f"agent {self.scope.agent} is suspended: {self.reason}"
                return AgentSuspended(message, metadata=metadata)
            case "TENANT":
                return TenantSuspended(f"all agents of the tenant are suspended: {self.reason}", metadata=metadata)
            case _:
                return EverythingSuspended(f"all agents are suspended: {self.reason}", metadata=metadata)
