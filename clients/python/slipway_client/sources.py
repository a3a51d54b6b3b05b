"""Governed data sources."""

from collections.abc import Iterator, Mapping
from typing import Any

from slipway_client.models import QueryResult, Source
from slipway_client.transport import Transport, read, route

_QUERY_SECONDS = 330.0


class Sources:
    """`/v1/sources`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def put(self, source: str, declaration: Mapping[str, Any]) -> Source:
        """Declares or changes a data source."""
        return read(Source, self._transport.call("PUT", route("sources", source), json=dict(declaration)))

    def get(self, source: str) -> Source:
        """One data source, with its tables and columns."""
        return read(Source, self._transport.call("GET", route("sources", source)))

    def list(self) -> Iterator[Source]:
        """The data sources that the caller may read, by name."""
        return self._transport.pages(route("sources"), "sources", Source)

    def delete(self, source: str) -> None:
        """Forgets a data source; its database is left alone."""
        self._transport.call("DELETE", route("sources", source))

    def query(
        self,
        source: str,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        limit: int = 0,
        timeout_seconds: float | None = None,
    ) -> QueryResult:
        """The rows of one SELECT, whose values stand as `:name`; limit 0 is 100 rows.

        Raises InvalidRequestError with the place in `sql`, PermissionDeniedError with the columns denied.
        """
        body: dict[str, object] = {"sql": sql, "parameters": dict(parameters or {}), "limit": limit}
        if timeout_seconds is not None:
            body["timeout_seconds"] = timeout_seconds
        answer = self._transport.call("POST", route("sources", source, "query"), json=body, timeout=_QUERY_SECONDS)
        return read(QueryResult, answer)
