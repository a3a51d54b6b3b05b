"""slipway.identity.v1 as services call it."""

from typing import Any

from slipway.identity.v1 import identity_pb2 as pb
from slipway.identity.v1.identity_pb2_grpc import IdentityServiceStub
from slipway_chassis.channel import invoke
from slipway_chassis.ids import new_id
from slipway_chassis.tokens import CallerTokenVerifier

SECRET = "orchestrators-own-secret"


class Identity:
    """slipway.identity.v1 as the orchestrator calls it."""

    def __init__(self, stub: IdentityServiceStub, verifier: CallerTokenVerifier) -> None:
        self.stub = stub
        self.verifier = verifier

    async def service_token(self, service: str = "orchestrator", secret: str = SECRET, tenant: str = "") -> str:
        request = pb.IssueServiceTokenRequest(service=service, secret=secret, tenant=tenant)
        return (await invoke(self.stub.IssueServiceToken, request, token="", timeout=10)).token

    async def exchange(self, grant: str, *, version: int = 3, token: str | None = None, run_id: str = "") -> Any:
        request = pb.ExchangeRunGrantRequest(run_grant=grant, run_id=run_id or new_id("run"), version=version)
        token = await self.service_token() if token is None else token
        answer = await invoke(self.stub.ExchangeRunGrant, request, token=token, timeout=10)
        return self.verifier.verify(answer.token)

    async def revoke(self, tenant: str = "acme", **target: str) -> None:
        token = await self.service_token(tenant=tenant)
        await invoke(self.stub.RevokeRunGrant, pb.RevokeRunGrantRequest(**target), token=token, timeout=10)
