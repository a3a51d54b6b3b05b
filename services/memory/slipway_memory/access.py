"""Who may see what: principals of access lists, and resources as the policies know them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.policy import Resource

_READER = re.compile(r"(?:user|role|group):\S{1,200}")
_MOST_READERS = 100


def principals(caller: Caller) -> list[str]:
    """How access lists name the caller: `user:alice`, `role:developer`, `group:support`."""
    named = [f"user:{caller.subject}"]
    named += [f"role:{role}" for role in sorted(caller.roles)]
    return named + [f"group:{group}" for group in sorted(caller.groups)]


def check_readers(readers: Sequence[str]) -> tuple[str, ...]:
    """An access list without duplicates, sorted. Raises InvalidArgument naming the wrong entry."""
    if len(readers) > _MOST_READERS:
        raise InvalidArgument(f"an access list has at most {_MOST_READERS} entries; name a group", field="readers")
    for position, reader in enumerate(readers):
        if not _READER.fullmatch(reader):
            raise InvalidArgument(
                f"{reader[:80]!r} is not a reader: write user:…, role:… or group:…", field=f"readers[{position}]"
            )
    return tuple(sorted(set(readers)))


def collection_resource(tenant: str, name: str) -> Resource:
    """A collection for the policies."""
    return Resource("Collection", name, tenant, {"name": name})


def file_resource(tenant: str, file_id: str, owner: str, readers: Sequence[str]) -> Resource:
    """A file for the policies."""
    return Resource("File", file_id, tenant, {"owner": owner, "readers": list(readers)})


def session_resource(tenant: str, session_id: str, owner: str) -> Resource:
    """A session for the policies."""
    return Resource("Session", session_id, tenant, {"owner": owner})
