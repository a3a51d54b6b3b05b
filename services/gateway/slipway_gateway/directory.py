"""Who a subject is now: looked at again whenever a run acts in the subject's name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from slipway_gateway.realm import RealmFile


@dataclass(frozen=True, slots=True)
class Subject:
    """An enabled subject's roles and groups, as they are now."""

    name: str
    roles: frozenset[str]
    groups: frozenset[str]


class Directory(Protocol):
    """A place that knows subjects."""

    async def find(self, tenant: str, subject: str) -> Subject | None:
        """The subject, or None when it is unknown in that tenant, or disabled. Raises Unavailable."""
        ...

    async def has_role(self, role: str) -> bool:
        """False for a role that nobody can have; True also when the directory cannot tell. Raises Unavailable."""
        ...


class RealmFileDirectory:
    """Subjects of a Keycloak realm export, the file that the development issuer signs people in from."""

    def __init__(self, realm: RealmFile) -> None:
        self._realm = realm

    async def find(self, tenant: str, subject: str) -> Subject | None:
        """As in Directory; the file is read again when it changed."""
        user = self._realm.current().user_by_id(subject)
        if user is None or not user.enabled or user.tenant != tenant:
            return None
        return Subject(user.username, user.roles, user.groups)

    async def has_role(self, role: str) -> bool:
        """Whether the realm declares the role."""
        return role in self._realm.current().roles


class PrefixedDirectories:
    """One directory for subjects whose name begins with a prefix, another for the rest."""

    def __init__(self, by_prefix: Mapping[str, Directory], rest: Directory) -> None:
        self._by_prefix = by_prefix
        self._rest = rest

    async def find(self, tenant: str, subject: str) -> Subject | None:
        """As in Directory."""
        for prefix, directory in self._by_prefix.items():
            if subject.startswith(prefix):
                return await directory.find(tenant, subject)
        return await self._rest.find(tenant, subject)

    async def has_role(self, role: str) -> bool:
        """As in Directory; prefixed subjects have no roles of their own."""
        return await self._rest.has_role(role)
