"""API keys and who the caller is."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Path, Response
from pydantic import Field, StringConstraints
from slipway_chassis import paging
from slipway_chassis.caller import Caller

from slipway_gateway import api_keys
from slipway_gateway.http.api import PageSizeQuery, PageTokenQuery, api_router
from slipway_gateway.http.resources.fields import Command, Page, Resource
from slipway_gateway.http.route import GatewayDep, IdempotencyKey, PrincipalDep
from slipway_gateway.principal import Principal

router = api_router("identity")
_LIST = "api-keys.list"


class WhoAmI(Resource):
    """The caller as the services see it."""

    subject: str
    tenant: str
    name: str
    roles: list[str]
    groups: list[str]
    method: str = Field(description="`oidc` or `api_key`.")
    expire_time: datetime = Field(description="When the credential ends.")


class ApiKey(Resource):
    """A key without its secret."""

    key_id: str
    name: str
    subject: str = Field(description="The service principal that a caller with this key is.")
    roles: list[str]
    owner: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None


class NewApiKey(ApiKey):
    """A key with its secret, which is shown this once."""

    key: str


class ApiKeyPage(Page):
    """A page of keys, newest first."""

    api_keys: list[ApiKey]


class CreateApiKey(Command):
    """A key to make."""

    name: str = Field(min_length=1, max_length=63, description="Lower-case letters, digits and inner `-`.")
    roles: list[Annotated[str, StringConstraints(min_length=1, max_length=64)]] = Field(min_length=1, max_length=16)
    expires_in_seconds: int | None = Field(None, ge=60, le=365 * 86_400, description="Absent: 90 days.")


def caller_of(principal: Principal) -> Caller:
    """The principal as policies see it."""
    return Caller(
        subject=principal.subject,
        tenant=principal.tenant,
        kind="user",
        roles=principal.roles,
        groups=principal.groups,
        act=None,
        run_id=None,
        token_id=principal.token_id,
        expires_at=principal.expires_at,
        name=principal.name,
        owner=principal.owner,
    )


def _api_key(key: api_keys.ApiKey) -> ApiKey:
    return ApiKey(
        key_id=key.key_id,
        name=key.name,
        subject=key.subject,
        roles=list(key.roles),
        owner=key.owner,
        create_time=key.create_time,
        expire_time=key.expire_time,
        revoke_time=key.revoke_time,
    )


@router.get("/whoami", summary="Who the gateway takes the caller for")
async def whoami(principal: PrincipalDep) -> WhoAmI:
    """The verified caller: subject, tenant, roles, groups."""
    return WhoAmI(
        subject=principal.subject,
        tenant=principal.tenant,
        name=principal.name,
        roles=sorted(principal.roles),
        groups=sorted(principal.groups),
        method=principal.method,
        expire_time=principal.expires_at,
    )


@router.post("/api-keys", status_code=201, summary="Make an API key")
async def create_api_key(
    body: CreateApiKey, gateway: GatewayDep, principal: PrincipalDep, request_id: IdempotencyKey, response: Response
) -> NewApiKey:
    """The key is shown this once. Roles are a subset of the caller's and never include those that judge others."""
    lifetime = None if body.expires_in_seconds is None else timedelta(seconds=body.expires_in_seconds)
    key, secret = await gateway.api_keys.create(
        caller_of(principal), name=body.name, roles=body.roles, lifetime=lifetime, request_id=request_id
    )
    response.headers["cache-control"] = "no-store"
    return NewApiKey(**_api_key(key).model_dump(), key=secret)


@router.get("/api-keys", summary="List API keys")
async def list_api_keys(
    gateway: GatewayDep, principal: PrincipalDep, page_size: PageSizeQuery = 0, page_token: PageTokenQuery = ""
) -> ApiKeyPage:
    """Keys that the caller may manage, newest first; a page may hold fewer than asked for."""
    position = paging.decode_token(principal.tenant, _LIST, page_token, [str])
    keys, following = await gateway.api_keys.page(
        caller_of(principal),
        before=str(position[0]) if position else "",
        limit=paging.page_size(page_size, 50, 200),
    )
    token = paging.encode_token(principal.tenant, _LIST, following) if following else None
    return ApiKeyPage(api_keys=[_api_key(key) for key in keys], next_page_token=token)


@router.delete("/api-keys/{key_id}", status_code=204, summary="Revoke an API key")
async def revoke_api_key(
    key_id: Annotated[str, Path(max_length=64)], gateway: GatewayDep, principal: PrincipalDep
) -> None:
    """The key opens nothing any more: at once here, within five seconds at other replicas."""
    await gateway.api_keys.revoke(caller_of(principal), key_id)
