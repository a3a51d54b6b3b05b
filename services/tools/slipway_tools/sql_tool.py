"""SQL tools: a fixed query of a governed data source, performed by the memory service as whoever calls the tool."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from slipway.memory.v1 import sources_pb2 as pb
from slipway.memory.v1 import sources_pb2_grpc
from slipway_chassis import channel
from slipway_chassis.caller import current_token
from slipway_chassis.errors import ErrorKind, SlipwayError
from slipway_chassis.tls import ServiceTls

from slipway_tools import schema
from slipway_tools.errors import InvalidTool
from slipway_tools.result import ToolFailure, ToolResult
from slipway_tools.tool import Declaration, SqlQuery

_CHECK_SECONDS: Final = 15.0
_RETRYABLE: Final = frozenset({ErrorKind.UNAVAILABLE, ErrorKind.RESOURCE_EXHAUSTED, ErrorKind.DEADLINE_EXCEEDED})
# What says something about the query, its values or the caller; the rest is the platform's and is raised.
_TOLD: Final = _RETRYABLE | {
    ErrorKind.INVALID_ARGUMENT,
    ErrorKind.NOT_FOUND,
    ErrorKind.PERMISSION_DENIED,
    ErrorKind.FAILED_PRECONDITION,
}


class SqlCaller:
    """Performs and checks queries over slipway.memory.v1."""

    def __init__(self, target: str, tls: ServiceTls | None = None) -> None:
        self._channel = channel.connect(target, tls)
        self._stub = sources_pb2_grpc.SourcesServiceStub(self._channel)

    async def check(self, query: SqlQuery, input_schema: Mapping[str, Any]) -> None:
        """Have a query read for its declaration.

        Raises:
            InvalidTool: the query is wrong for its data source, or its values are not the arguments.
            SlipwayError: what the memory service raises for this caller.
        """
        request = pb.QuerySourceRequest(
            source=query.source,
            sql=query.query,
            parameters_json=json.dumps(dict.fromkeys(names(input_schema))),
            validate_only=True,
        )
        try:
            await channel.invoke(self._stub.QuerySource, request, token=current_token(), timeout=_CHECK_SECONDS)
        except SlipwayError as error:
            if error.kind not in (ErrorKind.INVALID_ARGUMENT, ErrorKind.NOT_FOUND):
                raise
            place = f" (at character {error.metadata['position']})" if "position" in error.metadata else ""
            field = "sql.source" if error.kind is ErrorKind.NOT_FOUND else "sql.query"
            raise InvalidTool(f"{error.message}{place}", field=field) from error

    async def call(
        self, declaration: Declaration, arguments: Mapping[str, Any], regions: Sequence[str] | None
    ) -> ToolResult:
        """Perform one call; optional arguments that are left out are null. Failures of the query are results."""
        query = declaration.sql
        assert query  # noqa: S101 - the kind says so
        values = {name: arguments.get(name) for name in names(declaration.input_schema)}
        request = pb.QuerySourceRequest(
            source=query.source,
            sql=query.query,
            parameters_json=json.dumps(values),
            limit=query.limit,
            regions=regions or [],
            regions_demanded=regions is not None,
        )
        evidence = {"source": query.source}
        try:
            answer: pb.QuerySourceResponse = await channel.invoke(
                self._stub.QuerySource, request, token=current_token(), timeout=query.timeout
            )
        except SlipwayError as error:
            if error.kind not in _TOLD:
                raise
            retry = error.kind in _RETRYABLE
            return ToolResult(
                failure=ToolFailure(error.reason, error.message, retryable=retry, retry_after=error.retry_after),
                evidence=evidence,
            )
        return _result(declaration, answer, evidence)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def names(input_schema: Mapping[str, Any]) -> list[str]:
    """The arguments that a schema declares: what a query may take as values."""
    return list(input_schema.get("properties", {}))


def _result(declaration: Declaration, answer: pb.QuerySourceResponse, evidence: dict[str, Any]) -> ToolResult:
    columns = [column.name for column in answer.columns]
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        message = f"Two columns are called {twice}: give them names of their own with AS."
        return ToolResult(failure=ToolFailure("INVALID_RESULT", message), evidence=evidence | _facts(answer))
    rows = [dict(zip(columns, row, strict=True)) for row in json.loads(answer.rows_json)]
    output = {"columns": columns, "rows": rows, "truncated": answer.truncated}
    evidence |= _facts(answer)
    if declaration.output_schema is not None and (wrong := schema.violations(declaration.output_schema, output)):
        message = f"The rows do not fit the tool's output schema: {wrong[0].field} {wrong[0].message}"
        return ToolResult(failure=ToolFailure("INVALID_RESULT", message), evidence=evidence)
    return ToolResult(output_json=json.dumps(output, ensure_ascii=False), evidence=evidence)


def _facts(answer: pb.QuerySourceResponse) -> dict[str, Any]:
    """What the record of a call keeps of its query."""
    return {
        "query_record": answer.record.event_id,
        "data_classes": list(answer.data_classes),
        "masked_columns": list(answer.masked_columns),
    }
