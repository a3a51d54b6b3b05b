"""Short tokens for running runs: the grant of a run, traded at the identity service."""

import time
from collections import OrderedDict
from dataclasses import dataclass

from slipway.identity.v1 import identity_pb2, identity_pb2_grpc
from slipway_chassis.caller import Caller
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import PermissionDenied
from slipway_chassis.tls import ServiceTls
from slipway_chassis.tokens import CallerTokenVerifier, ServiceTokenSource

from slipway_orchestrator.runs import RunIdentity

_KEPT = 60.0
"""Seconds: so soon a revoked grant or a disabled subject stops a run that is acting."""
_CACHED = 1000


class GrantGone(PermissionDenied):
    """The grant was sealed for somebody who was erased."""

    reason = "SUBJECT_DISABLED"


@dataclass(frozen=True, slots=True)
class ScheduledGrant:
    """What one run of a schedule acts under, and its owner as they are now."""

    run_grant: str
    schedule_grant: str
    """The schedule's own, signed anew."""
    caller: Caller


class RunTokens:
    """Exchanges run grants. Subject, roles and revocation are looked at again at each exchange."""

    def __init__(
        self,
        identity_target: str,
        service_tokens: ServiceTokenSource,
        verifier: CallerTokenVerifier,
        tls: ServiceTls | None = None,
    ) -> None:
        self._channel = connect(identity_target, tls)
        self._identity = identity_pb2_grpc.IdentityServiceStub(self._channel)
        self._service_tokens = service_tokens
        self._verifier = verifier
        self._cache: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def token(self, run: RunIdentity, grant: str) -> str:
        """A token of the run's subject with the agent version as `act`.

        Raises PermissionDenied (GRANT_INVALID, GRANT_EXPIRED, GRANT_REVOKED, SUBJECT_DISABLED) or Unavailable.
        """
        cached = self._cache.get(run.run_id)
        if cached is not None and cached[1] > time.time():
            return cached[0]
        own = await self._service_tokens.token(run.tenant)
        request = identity_pb2.ExchangeRunGrantRequest(
            run_grant=grant, run_id=run.run_id, version=run.version, agent=run.agent
        )
        response: identity_pb2.ExchangeRunGrantResponse = await invoke(
            self._identity.ExchangeRunGrant, request, token=own, timeout=10
        )
        ends = min(response.expire_time.seconds - 30, time.time() + _KEPT)
        self._cache[run.run_id] = (response.token, ends)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return response.token

    async def scheduled(self, tenant: str, agent: str, schedule_grant: str) -> ScheduledGrant:
        """The grant of one run that a schedule starts.

        Raises PermissionDenied (GRANT_INVALID, GRANT_REVOKED, SUBJECT_DISABLED), Unavailable, or GrantGone.
        """
        if not schedule_grant:
            raise GrantGone("the schedule's owner was erased")
        own = await self._service_tokens.token(tenant)
        request = identity_pb2.IssueScheduledRunGrantRequest(schedule_grant=schedule_grant, agent=agent)
        response: identity_pb2.IssueScheduledRunGrantResponse = await invoke(
            self._identity.IssueScheduledRunGrant, request, token=own, timeout=10
        )
        return ScheduledGrant(response.run_grant, response.schedule_grant, self._verifier.verify(response.token))

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
