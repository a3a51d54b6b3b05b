"""Files, usage and audit: small areas of the API, a class each."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from slipway_client.models import Checkpoint, File, ModelCall, Record, UsageGroup
from slipway_client.transport import Transport, listed, read, route


class Files:
    """`/v1/files`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        path: Path,
        *,
        filename: str | None = None,
        readers: Sequence[str] = (),
        ttl_seconds: int | None = None,
        idempotency_key: str | None = None,
    ) -> File:
        """Uploads a file; its id can be given to runs. `readers` (`user:…`, `role:…`) may read it beside its owner."""
        form = {"readers": json.dumps(list(readers))}
        if ttl_seconds is not None:
            form["ttl_seconds"] = str(ttl_seconds)
        with path.open("rb") as handle:
            answer = self._transport.call(
                "POST",
                route("files"),
                files={"file": (filename or path.name, handle)},
                data=form,
                idempotency_key=idempotency_key,
                timeout=300,
            )
        return read(File, answer)

    def get(self, file_id: str) -> File:
        """A file's description."""
        return read(File, self._transport.call("GET", route("files", file_id)))

    def content(self, file_id: str) -> bytes:
        """A file's bytes."""
        with self._transport.stream(route("files", file_id, "content"), timeout=300) as response:
            return response.read()

    def delete(self, file_id: str) -> None:
        """Removes a file."""
        self._transport.call("DELETE", route("files", file_id))


class Usage:
    """`/v1/usage`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def summary(self, group_by: str) -> list[UsageGroup]:
        """Usage of the tenant, added up.

        `group_by` is `model`, `subject`, `run`, `root_run`, `agent`, `user`, `key`, `task`, `provider`, `outcome`,
        `day` or `month`.
        """
        answer = self._transport.call("GET", route("usage"), params={"group_by": group_by})
        return [read(UsageGroup, one) for one in listed(answer, "groups")]

    def calls(self, *, run_id: str | None = None) -> Iterator[ModelCall]:
        """Model calls, newest first."""
        return self._transport.pages(route("usage"), "rows", ModelCall, {"run_id": run_id})

    def get(self, request_id: str) -> ModelCall:
        """The model call whose answer carried this `x-slipway-request-id`."""
        return read(ModelCall, self._transport.call("GET", route("usage", request_id)))


class Audit:
    """`/v1/audit` and the evidence of runs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def evidence(self, run_id: str) -> bytes:
        """The evidence bundle of a run, as it is to be kept."""
        with self._transport.stream(route("runs", run_id, "evidence"), timeout=120) as response:
            return response.read()

    def checkpoint(self) -> Checkpoint:
        """The newest signed checkpoint of the tenant's log, with the verifier key."""
        return read(Checkpoint, self._transport.call("GET", route("audit", "checkpoint")))

    def events(self, *, run_id: str | None = None, type: str | None = None) -> Iterator[Record]:  # noqa: A002 # the API's own word
        """The tenant's audit log, in order."""
        return self._transport.pages(route("audit", "events"), "events", Record, {"run_id": run_id, "type": type})

    def inclusion(self, event_id: str, *, tree_size: int | None = None) -> Record:
        """The proof that an event is in the log (RFC 6962, 2.1.1)."""
        params = {"event_id": event_id, "tree_size": tree_size}
        return read(Record, self._transport.call("GET", route("audit", "inclusion"), params=params))

    def consistency(self, first_size: int, *, second_size: int | None = None) -> Record:
        """The proof that the log was only added to between two sizes (RFC 6962, 2.1.2)."""
        params = {"first_size": first_size, "second_size": second_size}
        return read(Record, self._transport.call("GET", route("audit", "consistency"), params=params))
