"""Governed data sources and results of their queries."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints
from slipway.memory.v1 import sources_pb2 as pb

from slipway_gateway.http.resources.fields import Command, Page, Resource, json_text, time_of
from slipway_gateway.http.resources.knowledge import Region

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Description = Annotated[str, StringConstraints(max_length=2000)]
Mask = Literal["null", "redact", "last4", "email_domain"]


class SourceColumn(Command):
    """A column that queries may name."""

    name: Identifier
    description: Description = ""
    data_class: str = Field("", max_length=32, description="Class of its data, e.g. `personal`; empty: none.")
    mask: Mask | None = Field(None, description="What callers see who may not read it; absent: it is refused to them.")
    readers: list[Annotated[str, StringConstraints(max_length=210)]] = Field(
        [], max_length=100, description="Who reads it as it is: `user:…`, `role:…`, `group:…`."
    )


class SourceTable(Command):
    """A table or view that queries may name."""

    name: Identifier = Field(description="Name in queries.")
    schema_name: str = Field("public", alias="schema", min_length=1, max_length=63)
    relation: str = Field("", max_length=63, description="Its name in the database; empty: as in queries.")
    description: Description = ""
    columns: list[SourceColumn] = Field(min_length=1, max_length=500)
    row_filter: str = Field(
        "",
        max_length=4096,
        description="Condition on its columns that rows must meet, with the caller's `:tenant`, `:subject`, `:roles`"
        " and `:groups`; empty: all rows.",
    )


class PutSource(Command):
    """A data source to declare."""

    description: Description = ""
    url: str = Field(
        min_length=1, max_length=200, description="Where the database's URL is kept: `secret:NAME` or `file:NAME`."
    )
    regions: list[Region] = Field([], max_length=32)
    tables: list[SourceTable] = Field(min_length=1, max_length=200)


class Source(Resource):
    """A database and what may be read of it."""

    source: str
    description: str
    url: str = Field(description="The reference; the URL itself is never told.")
    regions: list[str]
    data_classes: list[str] = Field(description="Classes of its columns.")
    tables: list[SourceTable]
    owner: str = Field(description="Who declared it first.")
    version: int
    create_time: datetime | None
    update_time: datetime | None


class SourcePage(Page):
    """A page of data sources, by name."""

    sources: list[Source]


class QuerySource(Command):
    """A query: one SELECT."""

    sql: str = Field(min_length=1, max_length=32768, description="Values as `:name`.")
    parameters: dict[str, JsonValue] = Field({}, max_length=100, description="The values, by name.")
    limit: int = Field(0, ge=0, le=100_000, description="Most rows; 0: 100.")
    timeout_seconds: float | None = Field(None, ge=0.1, le=300, description="Absent: the service's limit.")
    regions: list[Region] | None = Field(None, max_length=32, description="Demanded regions; an empty list is refused.")


class ResultColumn(Resource):
    """A column of a result."""

    name: str
    type: str = Field(description="PostgreSQL's name of its type.")


class QueryResult(Resource):
    """Rows of a query."""

    columns: list[ResultColumn]
    rows: list[list[JsonValue]] = Field(
        description="Values in the order of the columns: numeric as string, times as RFC 3339."
    )
    row_count: int
    truncated: bool = Field(description="True when there are more rows.")
    truncated_by: Literal["rows", "bytes"] | None = Field(description="Which limit cut the result.")
    masked_columns: list[str] = Field(description="Columns that were read masked, as `table.column`.")
    data_classes: list[str] = Field(description="Classes of the columns that were read as they are.")
    record: str = Field(description="Id of the query's audit event.")


def source_resource(message: pb.Source) -> Source:
    """Converts a data source."""
    return Source.model_construct(
        source=message.source,
        description=message.description,
        url=message.url,
        regions=list(message.regions),
        data_classes=list(message.data_classes),
        tables=[_table(table) for table in message.tables],
        owner=message.owner,
        version=message.version,
        create_time=time_of(message, "create_time"),
        update_time=time_of(message, "update_time"),
    )


def _table(message: pb.SourceTable) -> SourceTable:
    return SourceTable.model_construct(
        name=message.name,
        schema_name=message.schema,
        relation=message.relation,
        description=message.description,
        columns=[
            SourceColumn.model_construct(
                name=column.name,
                description=column.description,
                data_class=column.data_class,
                mask=column.mask or None,
                readers=list(column.readers),
            )
            for column in message.columns
        ],
        row_filter=message.row_filter,
    )


def put_request(source: str, body: PutSource, request_id: str) -> pb.PutSourceRequest:
    """Converts a declaration."""
    message = pb.PutSourceRequest(
        source=source, description=body.description, url=body.url, regions=body.regions, request_id=request_id
    )
    for table in body.tables:
        added = message.tables.add(
            name=table.name,
            schema=table.schema_name,
            relation=table.relation,
            description=table.description,
            row_filter=table.row_filter,
        )
        for column in table.columns:
            added.columns.add(
                name=column.name,
                description=column.description,
                data_class=column.data_class,
                mask=column.mask or "",
                readers=column.readers,
            )
    return message


def query_request(source: str, body: QuerySource) -> pb.QuerySourceRequest:
    """Converts a query."""
    message = pb.QuerySourceRequest(
        source=source,
        sql=body.sql,
        parameters_json=json_text(body.parameters),
        limit=body.limit,
        regions=body.regions or [],
        regions_demanded=body.regions is not None,
    )
    if body.timeout_seconds is not None:
        message.timeout.FromMilliseconds(round(body.timeout_seconds * 1000))
    return message


def query_result(message: pb.QuerySourceResponse) -> QueryResult:
    """Converts a result."""
    rows: Any = json.loads(message.rows_json or "[]")
    return QueryResult.model_construct(
        columns=[ResultColumn(name=column.name, type=column.type) for column in message.columns],
        rows=rows,
        row_count=message.row_count,
        truncated=message.truncated,
        truncated_by=message.truncated_by or None,
        masked_columns=list(message.masked_columns),
        data_classes=list(message.data_classes),
        record=message.record.event_id,
    )
