"""Data sources: declared, listed and read as policy allows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter
from slipway_chassis import jcs
from slipway_chassis.caller import Caller
from slipway_chassis.paging import decode_token, encode_token, page_size
from slipway_chassis.policy import PolicyDecision, PolicyEngine, Resource

from slipway_memory.sources.address import Addresses
from slipway_memory.sources.declaration import Source, SourceDeclaration, check_source_name
from slipway_memory.sources.errors import SourceNotFound
from slipway_memory.sources.store import SourceStore

_LIST = "ListSources"
_DECLARATIONS = TypeAdapter(SourceDeclaration)


@dataclass(frozen=True, slots=True)
class SourcePut:
    """A data source after a change, and whether it is new."""

    source: Source
    created: bool


_ANSWERS = TypeAdapter(SourcePut)


def source_resource(tenant: str, declaration: SourceDeclaration, owner: str) -> Resource:
    """A data source for the policies."""
    attributes = {
        "name": declaration.name,
        "owner": owner,
        "regions": list(declaration.regions),
        "data_classes": list(declaration.data_classes),
    }
    return Resource("Source", declaration.name, tenant, attributes)


class Sources:
    """Declares, reads and forgets data sources for a caller."""

    def __init__(self, store: SourceStore, policy: PolicyEngine, addresses: Addresses) -> None:
        self._store = store
        self._policy = policy
        self._addresses = addresses

    async def find(
        self, caller: Caller, name: str, action: str, context: Mapping[str, list[str]] | None = None
    ) -> tuple[Source, PolicyDecision]:
        """The tenant's data source of that name, when policy allows `action` on it.

        Raises SourceNotFound, PolicyDenied.
        """
        check_source_name(name)
        source = await self._store.source(caller.tenant, name)
        if source is None:
            raise SourceNotFound(f"there is no data source {name}", field="source")
        resource = source_resource(caller.tenant, source.declaration, source.owner)
        return source, self._policy.authorize(caller, action, resource, context)

    async def put(self, caller: Caller, declaration: SourceDeclaration, request_id: str) -> SourcePut:
        """Declares or changes a data source; the same declaration again changes nothing.

        Raises InvalidSource, InvalidArgument, PolicyDenied, SourceUrlUnavailable, SourceHostNotAllowed.
        """
        wanted = declaration.check()
        decision = self._policy.authorize(
            caller, "ManageSource", source_resource(caller.tenant, wanted, caller.subject)
        )
        self._addresses.resolve(wanted.url, caller.tenant)
        content = _DECLARATIONS.dump_python(wanted, mode="json")
        fingerprint = hashlib.sha256(jcs.canonical_json(content)).digest()
        async with self._store.database.transaction() as transaction:

            async def produce() -> SourcePut:
                before = await self._store.locked(transaction, caller.tenant, wanted.name)
                if before is not None:
                    self._policy.authorize(
                        caller, "ManageSource", source_resource(caller.tenant, before.declaration, before.owner)
                    )
                    if before.declaration == wanted:
                        return SourcePut(before, created=False)
                source = await self._store.write(transaction, caller.tenant, caller.subject, wanted)
                await transaction.record(
                    "source.put",
                    caller=caller,
                    resource=f"source/{wanted.name}",
                    data={"created": before is None, "version": source.version, "declaration": content},
                    policy=decision,
                )
                return SourcePut(source, created=before is None)

            return await transaction.once(caller, "PutSource", request_id, fingerprint, _ANSWERS, produce)

    async def get(self, caller: Caller, name: str) -> Source:
        """A data source that the caller may read."""
        source, _ = await self.find(caller, name, "ReadSource")
        return source

    async def list(self, caller: Caller, *, size: int, token: str) -> tuple[list[Source], str]:
        """A page of the tenant's data sources that the caller may read, and the next page's token."""
        wanted = page_size(size, 50, 200)
        position = decode_token(caller.tenant, _LIST, token, (str,))
        after = str(position[0]) if position else ""
        found: list[Source] = []
        while len(found) <= wanted:
            batch = await self._store.sources(caller.tenant, after, wanted + 1)
            for source in batch:
                resource = source_resource(caller.tenant, source.declaration, source.owner)
                if self._policy.decide(caller, "ReadSource", resource).allowed:
                    found.append(source)
            if len(batch) <= wanted:
                break
            after = batch[-1].name
        page = found[:wanted]
        return page, encode_token(caller.tenant, _LIST, page[-1].name) if len(found) > wanted else ""

    async def delete(self, caller: Caller, name: str, request_id: str) -> None:
        """Forgets a data source; its database is left alone. Raises SourceNotFound, PolicyDenied."""
        check_source_name(name)
        async with self._store.database.transaction() as transaction:

            async def produce() -> bool:
                source = await self._store.locked(transaction, caller.tenant, name)
                if source is None:
                    raise SourceNotFound(f"there is no data source {name}", field="source")
                resource = source_resource(caller.tenant, source.declaration, source.owner)
                decision = self._policy.authorize(caller, "ManageSource", resource)
                await self._store.delete(transaction, source)
                await transaction.record(
                    "source.deleted",
                    caller=caller,
                    resource=f"source/{name}",
                    data={"version": source.version},
                    policy=decision,
                )
                return True

            await transaction.once(caller, "DeleteSource", request_id, name.encode(), TypeAdapter(bool), produce)
