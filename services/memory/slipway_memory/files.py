"""Files: inputs and outputs of runs, with owner, readers, expiry and a quota per tenant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import TypeAdapter
from slipway_chassis.caller import Caller
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.ids import is_id, new_id
from slipway_chassis.policy import PolicyDecision, PolicyEngine

from slipway_memory.access import check_readers, file_resource
from slipway_memory.errors import FileNotFound, FileQuotaExceeded
from slipway_memory.file_store import FileStore, StoredFile
from slipway_memory.objects import Objects, object_key
from slipway_memory.orphan_objects import OrphanObjects
from slipway_memory.uploads import Upload

DEFAULT_TTL = 30 * 86400.0
LONGEST_TTL = 366 * 86400.0


@dataclass(frozen=True, slots=True)
class FileDescription:
    """What a caller says about a file; checked when made. `ttl` in seconds."""

    filename: str
    content_type: str
    readers: tuple[str, ...]
    ttl: float | None
    request_id: str

    def __post_init__(self) -> None:
        """Raises InvalidArgument naming the wrong field."""
        name = self.filename
        if not 1 <= len(name) <= 200 or "/" in name or "\\" in name or not name.isprintable() or name in (".", ".."):
            raise InvalidArgument("1 to 200 printable characters without slashes", field="filename")
        if len(self.content_type) > 200 or not self.content_type.isprintable():
            raise InvalidArgument("at most 200 printable characters", field="content_type")
        if self.ttl is not None and not 1 <= self.ttl <= LONGEST_TTL:
            raise InvalidArgument("1 second to 366 days", field="ttl")
        check_readers(self.readers)


_ANSWERS = TypeAdapter(StoredFile)


class Files:
    """Uploads, reads and deletes files for a caller. Who may not read a file does not learn that it is there."""

    def __init__(
        self, store: FileStore, policy: PolicyEngine, objects: Objects, orphans: OrphanObjects, *, quota_bytes: int
    ) -> None:
        self._store = store
        self._policy = policy
        self._objects = objects
        self._orphans = orphans
        self._quota = quota_bytes

    def permit_upload(self, caller: Caller, description: FileDescription) -> PolicyDecision:
        """The right to upload, looked at before the bytes are taken in. Raises PolicyDenied."""
        resource = file_resource(caller.tenant, "new", caller.subject, description.readers)
        return self._policy.authorize(caller, "UploadFile", resource)

    async def upload(
        self, caller: Caller, description: FileDescription, upload: Upload, decision: PolicyDecision
    ) -> StoredFile:
        """Stores a file of the caller. Raises FileQuotaExceeded, ObjectStoreUnavailable; nothing is kept then."""
        file_id = new_id("file")
        key = object_key(caller.tenant, "files", file_id)
        await self._orphans.expect(key)
        await self._objects.put(key, upload.file)
        said = [description.filename, description.content_type, list(description.readers), description.ttl]
        fingerprint = json.dumps([said, upload.digest]).encode()
        async with self._store.database.transaction() as transaction:

            async def produce() -> StoredFile:
                used = await self._store.used_bytes(transaction, caller.tenant)
                if used + upload.size > self._quota:
                    raise FileQuotaExceeded(
                        f"the tenant's files take {used} of {self._quota} bytes; this has {upload.size}: delete some",
                        metadata={"used_bytes": str(used), "quota_bytes": str(self._quota)},
                    )
                file = await self._store.insert(
                    transaction,
                    file_id=file_id,
                    tenant=caller.tenant,
                    owner=caller.subject,
                    filename=description.filename,
                    content_type=description.content_type or "application/octet-stream",
                    size_bytes=upload.size,
                    digest=upload.digest,
                    readers=description.readers,
                    object_key=key,
                    ttl_seconds=description.ttl or DEFAULT_TTL,
                )
                await transaction.keep_object(key)
                await transaction.record(
                    "file.uploaded",
                    caller=caller,
                    resource=f"file/{file_id}",
                    data={"digest": file.digest, "size_bytes": file.size_bytes, "readers": list(file.readers)},
                    policy=decision,
                )
                return file

            return await transaction.once(caller, "UploadFile", description.request_id, fingerprint, _ANSWERS, produce)

    async def get(self, caller: Caller, file_id: str) -> StoredFile:
        """A file that the caller may read. Raises FileNotFound."""
        file = await self._store.file(caller.tenant, file_id) if is_id("file", file_id) else None
        if file is None:
            raise _not_found(file_id)
        resource = file_resource(caller.tenant, file.file_id, file.owner, file.readers)
        if not self._policy.decide(caller, "ReadFile", resource).allowed:
            raise _not_found(file_id)
        return file

    def read(self, file: StoredFile) -> AsyncIterator[bytes]:
        """The bytes of a file that `get` gave."""
        return self._objects.read(file.object_key)

    async def delete(self, caller: Caller, file_id: str) -> None:
        """Deletes a file. Raises FileNotFound, and PolicyDenied for who may read it only."""
        file = await self.get(caller, file_id)
        resource = file_resource(caller.tenant, file.file_id, file.owner, file.readers)
        decision = self._policy.authorize(caller, "DeleteFile", resource)
        async with self._store.database.transaction() as transaction:
            if not await self._store.delete(transaction, caller.tenant, file_id):
                raise _not_found(file_id)
            await transaction.record(
                "file.deleted",
                caller=caller,
                resource=f"file/{file_id}",
                data={"digest": file.digest},
                policy=decision,
            )


def _not_found(file_id: str) -> FileNotFound:
    return FileNotFound(f"there is no file {file_id[:60]}", field="file_id")
