"""Collections and their documents."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from slipway_client.models import Collection, Document, Passage
from slipway_client.transport import Transport, listed, read, route


class Knowledge:
    """`/v1/collections`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put_collection(self, collection: str, *, description: str = "", regions: Sequence[str] = ()) -> Collection:
        """Creates or changes a collection."""
        body = {"description": description, "regions": list(regions)}
        return read(Collection, self._transport.call("PUT", route("collections", collection), json=body))

    def get_collection(self, collection: str) -> Collection:
        """One collection."""
        return read(Collection, self._transport.call("GET", route("collections", collection)))

    def collections(self) -> Iterator[Collection]:
        """The tenant's collections, by name."""
        return self._transport.pages(route("collections"), "collections", Collection)

    def put_document(
        self,
        collection: str,
        document: str,
        file: Path,
        *,
        title: str | None = None,
        readers: Sequence[str] = (),
        metadata: dict[str, str] | None = None,
    ) -> Document:
        """Puts a document; it is searchable when its state is READY."""
        form = {"readers": json.dumps(list(readers)), "metadata": json.dumps(metadata or {})}
        if title:
            form["title"] = title
        with file.open("rb") as handle:
            answer = self._transport.call(
                "PUT",
                route("collections", collection, "documents", document),
                files={"file": (file.name, handle)},
                data=form,
                timeout=300,
            )
        return read(Document, answer)

    def get_document(self, collection: str, document: str) -> Document:
        """One document."""
        return read(Document, self._transport.call("GET", route("collections", collection, "documents", document)))

    def documents(self, collection: str) -> Iterator[Document]:
        """The documents that the caller may read."""
        return self._transport.pages(route("collections", collection, "documents"), "documents", Document)

    def delete_document(self, collection: str, document: str) -> None:
        """Removes a document."""
        self._transport.call("DELETE", route("collections", collection, "documents", document))

    def search(self, collection: str, query: str, *, limit: int = 5, alpha: float | None = None) -> list[Passage]:
        """The best passages for a question, best first."""
        body: dict[str, object] = {"query": query, "limit": limit}
        if alpha is not None:
            body["alpha"] = alpha
        answer = self._transport.call("POST", route("collections", collection, "search"), json=body)
        return [read(Passage, one) for one in listed(answer, "passages")]
