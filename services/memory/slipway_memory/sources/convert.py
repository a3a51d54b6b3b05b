"""The one crossing between messages of slipway.memory.v1.SourcesService and the domain."""

from __future__ import annotations

import json
from typing import Any, cast

from slipway.effects.v1 import effects_pb2
from slipway.memory.v1 import sources_pb2 as pb

from slipway_memory.sources.declaration import Mask, Source, SourceColumn, SourceDeclaration, SourceTable
from slipway_memory.sources.errors import ParametersInvalid
from slipway_memory.sources.queries import QueryAnswer, SourceQuery
from slipway_memory.sources.values import Json

_LONGEST_PARAMETERS = 256 * 1024


def declaration(request: pb.PutSourceRequest) -> SourceDeclaration:
    """A declaration from the wire, not checked yet."""
    return SourceDeclaration(
        request.source, request.description, request.url, tuple(request.regions), tuple(map(_table, request.tables))
    )


def _table(message: pb.SourceTable) -> SourceTable:
    columns = tuple(
        SourceColumn(one.name, one.description, one.data_class, cast("Mask", one.mask), tuple(one.readers))
        for one in message.columns
    )
    return SourceTable(
        message.name,
        message.schema or "public",
        message.relation or message.name,
        message.description,
        columns,
        message.row_filter,
    )


def source_message(source: Source) -> pb.Source:
    """A data source for the wire."""
    declared = source.declaration
    message = pb.Source(
        source=declared.name,
        description=declared.description,
        url=declared.url,
        regions=declared.regions,
        data_classes=declared.data_classes,
        owner=source.owner,
        version=source.version,
    )
    for table in declared.tables:
        added = message.tables.add(
            name=table.name,
            schema=table.schema,
            relation=table.relation,
            description=table.description,
            row_filter=table.row_filter,
        )
        for column in table.columns:
            added.columns.add(
                name=column.name,
                description=column.description,
                data_class=column.data_class,
                mask=column.mask,
                readers=column.readers,
            )
    message.create_time.FromDatetime(source.create_time)
    message.update_time.FromDatetime(source.update_time)
    return message


def query(request: pb.QuerySourceRequest) -> SourceQuery:
    """A query from the wire. Raises ParametersInvalid."""
    timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else None
    demanded = request.regions_demanded or bool(request.regions)
    return SourceQuery(
        request.source,
        request.sql,
        _parameters(request.parameters_json),
        request.limit,
        timeout,
        tuple(request.regions) if demanded else None,
        request.validate_only,
    )


def _parameters(text: str) -> dict[str, Json]:
    if len(text) > _LONGEST_PARAMETERS:
        raise ParametersInvalid(f"at most {_LONGEST_PARAMETERS} characters", field="parameters")
    try:
        values: Any = json.loads(text or "{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ParametersInvalid("must be a JSON object", field="parameters") from None
    if not isinstance(values, dict):
        raise ParametersInvalid("must be a JSON object", field="parameters")
    return cast("dict[str, Json]", values)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def answer(source: QueryAnswer) -> pb.QuerySourceResponse:
    """A result for the wire."""
    result = source.result
    return pb.QuerySourceResponse(
        columns=[pb.ResultColumn(name=name, type=kind) for name, kind in result.columns],
        rows_json=result.rows_json,
        row_count=result.row_count,
        truncated=bool(result.truncated_by),
        truncated_by=result.truncated_by,
        masked_columns=source.masked,
        data_classes=source.data_classes,
        record=effects_pb2.RecordRef(event_id=source.event_id, commitment=source.commitment),
    )
