"""gRPC `slipway.identity.v1`: converts and calls."""

from typing import Final

import grpc
from slipway.identity.v1 import identity_pb2 as pb
from slipway.identity.v1 import identity_pb2_grpc as rpc
from slipway_chassis.caller import current_caller
from slipway_chassis.errors import InvalidArgument, PermissionDenied
from slipway_chassis.ids import is_id

from slipway_gateway.caller_tokens import CallerTokens
from slipway_gateway.directory import Directory
from slipway_gateway.principal import is_tenant
from slipway_gateway.run_grants import RunGrants
from slipway_gateway.services import ServiceSecrets

# The one RPC without a caller token: the secret in the request authenticates it.
PUBLIC_METHODS: Final = frozenset({"/slipway.identity.v1.IdentityService/IssueServiceToken"})
ORCHESTRATOR: Final = "service:orchestrator"
MAX_GRANT_BYTES: Final = 8192
MAX_PRINCIPALS: Final = 200
MAX_AGENT_NAME: Final = 200


class NotTheOrchestrator(PermissionDenied):
    """Only the orchestrator's own principal exchanges grants."""

    reason = "NOT_THE_ORCHESTRATOR"


class IdentityServicer(rpc.IdentityServiceServicer):
    """Issues, exchanges and revokes."""

    def __init__(self, secrets: ServiceSecrets, tokens: CallerTokens, grants: RunGrants, directory: Directory) -> None:
        self._secrets = secrets
        self._tokens = tokens
        self._grants = grants
        self._directory = directory

    async def IssueServiceToken(
        self,
        request: pb.IssueServiceTokenRequest,
        context: "grpc.aio.ServicerContext[pb.IssueServiceTokenRequest, pb.IssueServiceTokenResponse]",
    ) -> pb.IssueServiceTokenResponse:
        """A token of a service's own principal."""
        del context
        self._secrets.check(request.service, request.secret)
        if request.tenant and not is_tenant(request.tenant):
            raise InvalidArgument("this is no name of a tenant", field="tenant")
        issued = self._tokens.for_service(request.service, request.tenant)
        response = pb.IssueServiceTokenResponse(token=issued.token)
        response.expire_time.FromDatetime(issued.expires_at)
        return response

    async def ExchangeRunGrant(
        self,
        request: pb.ExchangeRunGrantRequest,
        context: "grpc.aio.ServicerContext[pb.ExchangeRunGrantRequest, pb.ExchangeRunGrantResponse]",
    ) -> pb.ExchangeRunGrantResponse:
        """A token of a run's subject."""
        del context
        _only_the_orchestrator()
        if not is_id("run", request.run_id):
            raise InvalidArgument("this is no id of a run", field="run_id")
        if not 0 < len(request.run_grant) <= MAX_GRANT_BYTES:
            raise InvalidArgument(f"1 to {MAX_GRANT_BYTES} bytes", field="run_grant")
        if request.version < 0:
            raise InvalidArgument("a version counts from 1", field="version")
        if len(request.agent) > MAX_AGENT_NAME:
            raise InvalidArgument(f"at most {MAX_AGENT_NAME} characters", field="agent")
        issued = await self._grants.exchange(
            request.run_grant, run_id=request.run_id, version=request.version, agent=request.agent
        )
        response = pb.ExchangeRunGrantResponse(token=issued.token)
        response.expire_time.FromDatetime(issued.expires_at)
        return response

    async def IssueScheduledRunGrant(
        self,
        request: pb.IssueScheduledRunGrantRequest,
        context: "grpc.aio.ServicerContext[pb.IssueScheduledRunGrantRequest, pb.IssueScheduledRunGrantResponse]",
    ) -> pb.IssueScheduledRunGrantResponse:
        """The grant of one run that a schedule starts."""
        del context
        _only_the_orchestrator()
        if not 0 < len(request.schedule_grant) <= MAX_GRANT_BYTES:
            raise InvalidArgument(f"1 to {MAX_GRANT_BYTES} bytes", field="schedule_grant")
        issued = await self._grants.issue_scheduled(request.schedule_grant, agent=request.agent)
        return pb.IssueScheduledRunGrantResponse(
            run_grant=issued.run_grant, token=issued.token.token, schedule_grant=issued.schedule_grant
        )

    async def ListUnknownPrincipals(
        self,
        request: pb.ListUnknownPrincipalsRequest,
        context: "grpc.aio.ServicerContext[pb.ListUnknownPrincipalsRequest, pb.ListUnknownPrincipalsResponse]",
    ) -> pb.ListUnknownPrincipalsResponse:
        """Those of the principals that nobody in the caller's tenant is."""
        del context
        if len(request.principals) > MAX_PRINCIPALS:
            raise InvalidArgument(f"at most {MAX_PRINCIPALS}", field="principals")
        tenant = current_caller().tenant
        return pb.ListUnknownPrincipalsResponse(
            unknown=[principal for principal in request.principals if not await self._knows(tenant, principal)]
        )

    async def _knows(self, tenant: str, principal: str) -> bool:
        kind, _, name = principal.partition(":")
        if kind == "role":
            return await self._directory.has_role(name)
        return kind == "user" and await self._directory.find(tenant, name) is not None

    async def RevokeRunGrant(
        self,
        request: pb.RevokeRunGrantRequest,
        context: "grpc.aio.ServicerContext[pb.RevokeRunGrantRequest, pb.RevokeRunGrantResponse]",
    ) -> pb.RevokeRunGrantResponse:
        """Ends one grant, or all of a subject's, in the tenant that the orchestrator acts in."""
        del context
        _only_the_orchestrator()
        tenant = current_caller().tenant
        if not tenant:
            raise InvalidArgument("the service token names no tenant", field="tenant")
        if bool(request.grant_id) == bool(request.subject):
            raise InvalidArgument("name a grant or a subject", field="grant_id")
        await self._grants.revoke(tenant, grant_id=request.grant_id, subject=request.subject)
        return pb.RevokeRunGrantResponse()


def _only_the_orchestrator() -> None:
    caller = current_caller()
    if caller.kind != "service" or caller.subject != ORCHESTRATOR:
        raise NotTheOrchestrator("only the orchestrator exchanges and revokes run grants")
