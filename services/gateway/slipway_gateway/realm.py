"""Reads a Keycloak realm export: the part of it that the development issuer and the directory need."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

log = structlog.get_logger(__name__)


class RealmUnusable(ValueError):
    """The realm file cannot be used; the message is a sentence that names the place."""


class _Export(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class ProtocolMapper(_Export):
    """How a claim gets into a token."""

    protocolMapper: str
    config: Mapping[str, str] = {}


class _ClientScope(_Export):
    name: str
    protocolMappers: tuple[ProtocolMapper, ...] = ()


class _Client(_Export):
    clientId: str = Field(min_length=1)
    enabled: bool = True
    publicClient: bool = False
    secret: str = ""
    standardFlowEnabled: bool = True
    directAccessGrantsEnabled: bool = False
    serviceAccountsEnabled: bool = False
    redirectUris: tuple[str, ...] = ()
    attributes: Mapping[str, str] = {}
    defaultClientScopes: tuple[str, ...] = ()
    protocolMappers: tuple[ProtocolMapper, ...] = ()


class _Credential(_Export):
    type: str = ""
    value: str = ""


class _User(_Export):
    id: str = ""
    username: str = Field(min_length=1)
    enabled: bool = True
    email: str = ""
    firstName: str = ""
    lastName: str = ""
    attributes: Mapping[str, tuple[str, ...]] = {}
    realmRoles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    credentials: tuple[_Credential, ...] = ()
    serviceAccountClientId: str = ""


class _Role(_Export):
    name: str = Field(min_length=1)


class _Roles(_Export):
    realm: tuple[_Role, ...] = ()


class _Realm(_Export):
    realm: str = Field(min_length=1)
    roles: _Roles = _Roles()
    accessTokenLifespan: int = Field(default=300, ge=10, le=3600)
    clientScopes: tuple[_ClientScope, ...] = ()
    clients: tuple[_Client, ...] = ()
    users: tuple[_User, ...] = ()


@dataclass(frozen=True, slots=True)
class RealmUser:
    """A user, or the account of a client that signs in by itself. `password` is empty when there is none."""

    user_id: str
    username: str
    full_name: str
    email: str
    enabled: bool
    attributes: Mapping[str, Sequence[str]]
    roles: frozenset[str]
    group_paths: tuple[str, ...]
    password: str = field(repr=False)
    service_client: str

    @property
    def tenant(self) -> str:
        """The attribute `tenant`; empty when the user has none."""
        return next(iter(self.attributes.get("tenant", ())), "")

    @property
    def groups(self) -> frozenset[str]:
        """Groups without the leading slash of their path."""
        return frozenset(path.removeprefix("/") for path in self.group_paths)


@dataclass(frozen=True, slots=True)
class RealmClient:
    """An application that asks for tokens. `mappers` are its own and those of its default scopes."""

    client_id: str
    enabled: bool
    public: bool
    secret: str = field(repr=False)
    standard_flow: bool
    direct_access: bool
    service_account: bool
    device_flow: bool
    redirect_uris: tuple[str, ...]
    mappers: tuple[ProtocolMapper, ...]


@dataclass(frozen=True)
class Realm:
    """A realm's users and clients."""

    name: str
    token_lifespan: int
    users: tuple[RealmUser, ...]
    clients: Mapping[str, RealmClient]
    roles: frozenset[str]

    def user_by_id(self, user_id: str) -> RealmUser | None:
        """The user with that id."""
        return next((user for user in self.users if user.user_id == user_id), None)

    def user_by_name(self, username: str) -> RealmUser | None:
        """The user who signs in with that name."""
        return next((user for user in self.users if user.username == username), None)

    def service_account(self, client_id: str) -> RealmUser | None:
        """The account of a client that signs in by itself."""
        return next((user for user in self.users if user.service_client == client_id), None)


def parse_realm(text: bytes) -> Realm:
    """Reads an export. Raises RealmUnusable."""
    try:
        export = _Realm.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise RealmUnusable(f"{place}: {first['msg']}") from None
    except ValueError as error:
        raise RealmUnusable(f"it is not JSON: {error}") from None
    scopes = {scope.name: scope.protocolMappers for scope in export.clientScopes}
    declared = {role.name for role in export.roles.realm}
    return Realm(
        name=export.realm,
        token_lifespan=export.accessTokenLifespan,
        users=tuple(_user(user) for user in export.users),
        clients={client.clientId: _client(client, scopes) for client in export.clients},
        roles=frozenset(declared.union(*(user.realmRoles for user in export.users))),
    )


def _user(user: _User) -> RealmUser:
    return RealmUser(
        # Keycloak makes an id where the export has none; here the name is as stable.
        user_id=user.id or user.username,
        username=user.username,
        full_name=f"{user.firstName} {user.lastName}".strip(),
        email=user.email,
        enabled=user.enabled,
        attributes=dict(user.attributes),
        roles=frozenset(user.realmRoles),
        group_paths=user.groups,
        password=next((item.value for item in user.credentials if item.type == "password"), ""),
        service_client=user.serviceAccountClientId,
    )


def _client(client: _Client, scopes: Mapping[str, tuple[ProtocolMapper, ...]]) -> RealmClient:
    # Scopes that the export does not define (profile, roles, basic) are Keycloak's own.
    inherited = [mapper for name in client.defaultClientScopes for mapper in scopes.get(name, ())]
    return RealmClient(
        client_id=client.clientId,
        enabled=client.enabled,
        public=client.publicClient,
        secret=client.secret,
        standard_flow=client.standardFlowEnabled,
        direct_access=client.directAccessGrantsEnabled,
        service_account=client.serviceAccountsEnabled,
        device_flow=client.attributes.get("oauth2.device.authorization.grant.enabled") == "true",
        redirect_uris=client.redirectUris,
        mappers=(*inherited, *client.protocolMappers),
    )


class RealmFile:
    """A realm in a file, read again when the file changes; a new content that is unusable leaves the old in force."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: Any = None
        try:
            self._stamp = self._read_stamp()
            self._realm = parse_realm(file.read_bytes())
        except (OSError, RealmUnusable) as error:
            raise RealmUnusable(f"the realm file {file} cannot be used: {error}") from None

    def current(self) -> Realm:
        """The realm as the file says now."""
        try:
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._realm = parse_realm(self._file.read_bytes())
                log.info("realm.reloaded", file=str(self._file))
        except (OSError, RealmUnusable) as error:
            log.warning("realm.refused", file=str(self._file), reason=str(error))
        return self._realm

    def _read_stamp(self) -> tuple[int, int, int]:
        status = self._file.stat()
        return status.st_mtime_ns, status.st_ino, status.st_size
