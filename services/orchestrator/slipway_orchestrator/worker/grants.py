"""Short tokens for running runs: the grant of a run, traded at the identity service."""

import time
from collections import OrderedDict

from slipway.identity.v1 import identity_pb2, identity_pb2_grpc
from slipway_chassis.channel import connect, invoke
from slipway_chassis.tokens import ServiceTokenSource

from slipway_orchestrator.runs import RunIdentity

_KEPT = 60.0
"""Seconds: so soon a revoked grant or a disabled subject stops a run that is acting."""
_CACHED = 1000


class RunTokens:
    """Exchanges run grants. Subject, roles and revocation are looked at again at each exchange."""

    def __init__(self, identity_target: str, service_tokens: ServiceTokenSource) -> None:
        self._channel = connect(identity_target)
        self._identity = identity_pb2_grpc.IdentityServiceStub(self._channel)
        self._service_tokens = service_tokens
        self._cache: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def token(self, run: RunIdentity, grant: str) -> str:
        """A token of the run's subject with the agent version as `act`.

        Raises PermissionDenied (GRANT_INVALID, GRANT_EXPIRED, GRANT_REVOKED, SUBJECT_DISABLED) or Unavailable.
        """
        cached = self._cache.get(run.run_id)
        if cached is not None and cached[1] > time.time():
            return cached[0]
        own = await self._service_tokens.token(run.tenant)
        request = identity_pb2.ExchangeRunGrantRequest(run_grant=grant, run_id=run.run_id, version=run.version)
        response: identity_pb2.ExchangeRunGrantResponse = await invoke(
            self._identity.ExchangeRunGrant, request, token=own, timeout=10
        )
        ends = min(response.expire_time.seconds - 30, time.time() + _KEPT)
        self._cache[run.run_id] = (response.token, ends)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return response.token

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
