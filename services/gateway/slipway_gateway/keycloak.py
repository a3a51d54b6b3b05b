"""Subjects of a Keycloak realm, looked up over its Admin REST API through a service account with `view-users`.

The account needs no more than that role of `realm-management`: `view-clients` would show it the secrets of other
clients (Keycloak 26.5). `view-realm` lets it also tell which role names exist. Where roles are those of a client, its
internal id stands in the URL: looking it up would need `view-clients`.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

import httpx
import structlog
from pydantic import TypeAdapter, ValidationError
from slipway_chassis.errors import Unavailable
from slipway_chassis.server_checks.reasons import tls_refusal

from slipway_gateway.directory import Subject
from slipway_gateway.oidc.discovery import CA_SETTING, is_trustworthy

SCHEMES: Final = ("keycloak+https", "keycloak+http")
CACHE_SECONDS: Final = 10.0
CACHE_ENTRIES: Final = 4096
_TIMEOUT: Final = 5.0
_RENEW_BEFORE: Final = 20.0
_RETRY_AFTER: Final = 5.0
_URL: Final = "SLIPWAY_GATEWAY_DIRECTORY_URL"
_OPTIONS: Final = frozenset({"client_id", "tenant_attribute", "groups", "roles_client"})

log = structlog.get_logger(__name__)

T = TypeVar("T")
_OBJECT: Final = TypeAdapter(dict[str, Any])
_OBJECTS: Final = TypeAdapter(list[dict[str, Any]])


class DirectoryUnavailable(Unavailable):
    """The directory does not answer or does not let the gateway look: whether a subject is enabled is not known."""

    reason = "DIRECTORY_UNAVAILABLE"


class DirectoryRefused(ValueError):
    """The directory's settings are wrong; the message names the setting and the remedy."""


@dataclass(frozen=True, slots=True)
class KeycloakSource:
    """Where a realm is and where in it the identity of a token stands. `groups`: `name` or `path`."""

    base: str
    realm: str
    client_id: str
    tenant_attribute: str
    by_username: bool
    roles_client: str
    """Internal id of the client whose roles count; empty: the realm's."""
    group_field: str

    @property
    def token_url(self) -> str:
        """Where the service account gets its tokens."""
        return f"{self.base}/realms/{self.realm}/protocol/openid-connect/token"

    @property
    def admin_url(self) -> str:
        """Root of the realm's Admin REST API."""
        return f"{self.base}/admin/realms/{self.realm}"


def read_source(url: str, *, subject_claim: str, tenant_claim: str, roles_claim: str) -> KeycloakSource:
    """What `keycloak+https://host/realms/REALM?client_id=…` says. Raises DirectoryRefused.

    The claims of tokens tell what to look up: `sub` or `preferred_username`; roles of the realm, or of a client when
    they stand at `resource_access.CLIENT.roles` (then `roles_client` is that client's internal id); the tenant in a
    user attribute named as its claim, or `tenant_attribute`.
    """
    parts = urlsplit(url)
    prefix, found, realm = parts.path.rstrip("/").rpartition("/realms/")
    options = dict(parse_qsl(parts.query))
    if not parts.hostname or not found or not realm or "/" in realm or parts.username:
        raise DirectoryRefused(f"{_URL} must be of the form keycloak+https://host[:port]/realms/REALM?client_id=…")
    if unknown := options.keys() - _OPTIONS:
        raise DirectoryRefused(f"{_URL} has an unknown option {min(unknown)!r}; known: {sorted(_OPTIONS)}")
    if subject_claim not in ("sub", "preferred_username"):
        raise DirectoryRefused(
            "a Keycloak directory finds subjects by `sub` or `preferred_username`: set "
            "SLIPWAY_GATEWAY_OIDC_SUBJECT_CLAIM to one of them"
        )
    groups = options.get("groups", "name")
    if groups not in ("name", "path"):
        raise DirectoryRefused(f"{_URL}'s `groups` is `name` or `path` (the group mapper's `full.path`)")
    base = f"{parts.scheme.removeprefix('keycloak+')}://{parts.netloc}{prefix}"
    if not is_trustworthy(base):
        raise DirectoryRefused(f"{_URL} must be keycloak+https: plain http is for loopback addresses only")
    client = options.get("roles_client", "")
    if roles_claim.startswith("resource_access.") and not client:
        raise DirectoryRefused(
            f"{_URL} needs `roles_client` where SLIPWAY_GATEWAY_OIDC_ROLES_CLAIM is resource_access.CLIENT.roles: the "
            "internal id of that client (a UUID; Keycloak's console shows it in the page's address)"
        )
    return KeycloakSource(
        base=base,
        realm=realm,
        client_id=options.get("client_id", "slipway-gateway"),
        tenant_attribute=options.get("tenant_attribute", tenant_claim),
        by_username=subject_claim == "preferred_username",
        roles_client=client,
        group_field=groups,
    )


class KeycloakDirectory:
    """Asks Keycloak who a subject is now; answers are good for ten seconds. `clock` gives monotonic seconds."""

    def __init__(
        self,
        web: httpx.AsyncClient,
        source: KeycloakSource,
        secret: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._web = web
        self._source = source
        self._secret = secret
        self._clock = clock
        self._token, self._token_ends = "", float("-inf")
        self._found: OrderedDict[tuple[str, str], tuple[float, Subject | None]] = OrderedDict()

    async def find(self, tenant: str, subject: str) -> Subject | None:
        """As in Directory. Raises DirectoryUnavailable: nobody goes on unseen."""
        known = self._found.get((tenant, subject))
        if known is not None and self._clock() < known[0]:
            return known[1]
        try:
            found = await self._look_up(tenant, subject)
        except DirectoryRefused as error:
            raise _not_now(error) from None
        self._found[tenant, subject] = (self._clock() + CACHE_SECONDS, found)
        self._found.move_to_end((tenant, subject))
        while len(self._found) > CACHE_ENTRIES:
            self._found.popitem(last=False)
        return found

    async def has_role(self, role: str) -> bool:
        """As in Directory; True too when the account may not see the realm's roles, or roles are a client's."""
        if self._source.roles_client:
            return True
        try:
            answer = await self._ask(f"/roles/{quote(role, safe='')}")
        except DirectoryRefused as error:
            raise _not_now(error) from None
        if answer.status_code not in (200, 403, 404):
            raise _unexpected(answer)
        return answer.status_code != 404

    async def try_account(self) -> None:
        """Tries the service account, at start. Raises DirectoryRefused; a directory that is down is only logged."""
        try:
            await self._try_account()
        except DirectoryUnavailable as error:
            log.warning("directory.unavailable", reason=error.message)

    async def _try_account(self) -> None:
        answer = await self._ask("/users?max=1&briefRepresentation=true")
        if answer.status_code == 403:
            raise DirectoryRefused(
                f"{_URL}: the directory refuses client {self._source.client_id!r} to look up users: give its service "
                "account the role `view-users` of the client `realm-management`"
            )
        if answer.status_code >= 500:
            raise _unexpected(answer)
        if answer.status_code != 200:
            raise DirectoryRefused(f"{self._source.admin_url} answered {answer.status_code}: is {_URL} right?")
        for user in _read(_OBJECTS, answer):
            mapped = await self._ask(f"/users/{quote(str(user['id']), safe='')}{self._roles_path}")
            if mapped.status_code == 404 and self._source.roles_client:
                raise DirectoryRefused(
                    f"{_URL} names a client in `roles_client` that the realm does not have: it is the client's "
                    "internal id (a UUID; Keycloak's console shows it in the page's address)"
                )

    async def _look_up(self, tenant: str, subject: str) -> Subject | None:
        user = await self._user(subject)
        if user is None or user.get("enabled") is not True:
            return None
        attributes = user.get("attributes") or {}
        if attributes.get(self._source.tenant_attribute) != [tenant]:
            return None
        place = f"/users/{quote(str(user['id']), safe='')}"
        roles = _read(_OBJECTS, await self._ask(place + self._roles_path))
        groups = await self._list(f"{place}/groups?max=1000")
        return Subject(
            name=str(user.get("username") or subject),
            roles=frozenset(str(role["name"]) for role in roles),
            groups=frozenset(str(group[self._source.group_field]).removeprefix("/") for group in groups),
        )

    @property
    def _roles_path(self) -> str:
        """Where below a user the roles are that the user has, those of groups and of other roles included."""
        client = self._source.roles_client
        holder = f"clients/{quote(client, safe='')}" if client else "realm"
        return f"/role-mappings/{holder}/composite"

    async def _user(self, subject: str) -> dict[str, Any] | None:
        if self._source.by_username:
            users = await self._list(f"/users?exact=true&username={quote(subject, safe='')}")
            return users[0] if users else None
        answer = await self._ask(f"/users/{quote(subject, safe='')}")
        return None if answer.status_code == 404 else _read(_OBJECT, answer)

    async def _list(self, path: str) -> list[dict[str, Any]]:
        return _read(_OBJECTS, await self._ask(path))

    async def _ask(self, path: str) -> httpx.Response:
        answer = await self._send("GET", self._source.admin_url + path, await self._access_token())
        if answer.status_code == 401:
            # The realm's keys or the account's sessions were reset before the token's time was over.
            self._token_ends = float("-inf")
            answer = await self._send("GET", self._source.admin_url + path, await self._access_token())
        return answer

    async def _access_token(self) -> str:
        if self._clock() >= self._token_ends:
            asked_at = self._clock()
            answer = await self._send("POST", self._source.token_url)
            if answer.status_code in (400, 401):
                raise DirectoryRefused(
                    f"the directory does not accept the client {self._source.client_id!r}: correct `client_id` in "
                    f"{_URL} and SLIPWAY_GATEWAY_DIRECTORY_SECRET, and enable the client's service account"
                )
            if answer.status_code == 404:
                raise DirectoryRefused(
                    f"there is no realm {self._source.realm!r} at {self._source.base}: correct {_URL}"
                )
            body = _read(_OBJECT, answer)
            self._token = str(body.get("access_token"))
            self._token_ends = asked_at + float(body.get("expires_in") or 0) - _RENEW_BEFORE
        return self._token

    async def _send(self, method: str, url: str, token: str = "") -> httpx.Response:
        try:
            if token:
                return await self._web.request(
                    method, url, headers={"authorization": f"Bearer {token}"}, timeout=_TIMEOUT, follow_redirects=False
                )
            return await self._web.request(
                method,
                url,
                data={"grant_type": "client_credentials"},
                auth=(quote(self._source.client_id, safe=""), quote(self._secret, safe="")),
                timeout=_TIMEOUT,
                follow_redirects=False,
            )
        except httpx.HTTPError as error:
            if refusal := tls_refusal(error, authority=CA_SETTING, plain="write keycloak+http://"):
                raise DirectoryRefused(f"{_URL}: {refusal}") from None
            reason = str(error) or type(error).__name__
            raise DirectoryUnavailable(f"the directory does not answer: {reason}", retry_after=_RETRY_AFTER) from None


def _not_now(error: DirectoryRefused) -> DirectoryUnavailable:
    """What was right at start and is wrong now is for the operator to mend; whoever asks may try again."""
    log.error("directory.refused", reason=str(error))
    return DirectoryUnavailable("the directory does not let the gateway look up subjects", retry_after=_RETRY_AFTER)


def _unexpected(answer: httpx.Response) -> DirectoryUnavailable:
    return DirectoryUnavailable(f"the directory answered {answer.status_code}", retry_after=_RETRY_AFTER)


def _read(shape: TypeAdapter[T], answer: httpx.Response) -> T:
    if answer.status_code != 200:
        raise _unexpected(answer)
    try:
        return shape.validate_json(answer.content)
    except ValidationError:
        raise DirectoryUnavailable("the directory's answer cannot be read", retry_after=_RETRY_AFTER) from None
