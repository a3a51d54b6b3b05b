"""The statement that is performed in a query's place."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import postgast
from google.protobuf.message import Message
from postgast import pg_query_pb2 as pg

from slipway_memory.sources.declaration import Mask, SourceColumn
from slipway_memory.sources.errors import SqlNotAllowed
from slipway_memory.sources.sql.analysis import Analysis
from slipway_memory.sources.sql.text import quoted, write_select

_MASKS: Mapping[Mask, str] = {
    "null": "CAST(NULL AS text)",
    "redact": "CAST('***' AS text)",
    # Of something short, the last four would be too much.
    "last4": "CASE WHEN length({0}::text) > 8 THEN '***' || right({0}::text, 4) ELSE '***' END",
    "email_domain": "CASE WHEN strpos({0}::text, '@') > 0 THEN '***@' || split_part({0}::text, '@', -1) ELSE '***' END",
}


@dataclass(frozen=True)
class Statement:
    """SQL with numbered values: those of the query by their names, then attributes of the caller."""

    sql: str
    names: tuple[str, ...]
    attributes: tuple[str, ...]


def rewrite(analysis: Analysis, masked: Mapping[str, Set[str]]) -> Statement:
    """Replace each reference to a table by what may be seen of it; `masked` are columns by table.

    Raises:
        SqlNotAllowed: the library can't write the statement, or would write another than was read.
    """
    attributes: list[str] = []
    for reference in analysis.references:
        first = len(analysis.named.names) + len(attributes) + 1
        found = reference.table.filter
        condition = ""
        if found:
            attributes += found.names
            # OFFSET 0 keeps the planner from asking a query's own conditions of rows that the filter hides: an error
            # or the time that one takes would tell of them.
            condition = f" WHERE ({found.numbered_from(first)}) OFFSET 0"
        hidden = masked.get(reference.table.name, frozenset())
        columns = ", ".join(
            _column(column, hidden) for column in reference.table.columns if column.name in reference.used
        )
        source = f"{quoted(reference.table.schema)}.{quoted(reference.table.relation)}"
        sql = f"SELECT FROM (SELECT {columns} FROM {source}{condition}) AS {quoted(reference.alias)}"  # noqa: S608
        reference.node.CopyFrom(postgast.parse(sql).stmts[0].stmt.select_stmt.from_clause[0])
    text = write_select(analysis.statement)
    _same(analysis.statement, text)
    return Statement(text, analysis.named.names, tuple(attributes))


def _column(column: SourceColumn, masked: Set[str]) -> str:
    name = quoted(column.name)
    return f"{_MASKS[column.mask].format(name)} AS {name}" if column.name in masked else name


def _same(statement: pg.SelectStmt, text: str) -> None:
    """What was written must read as what was meant: raises SqlNotAllowed otherwise."""
    meant, read = pg.SelectStmt(), postgast.parse(text).stmts
    meant.CopyFrom(statement)
    if len(read) != 1 or read[0].stmt.WhichOneof("node") != "select_stmt":
        raise SqlNotAllowed("this query can't be written safely; put it another way", field="sql")
    written = read[0].stmt.select_stmt
    if _plain(meant) != _plain(written):
        raise SqlNotAllowed("this query can't be written safely; put it another way", field="sql")


def _plain(message: Message) -> object:
    """A tree without places in the text."""
    parts: list[object] = []
    for field, value in message.ListFields():
        if field.name.endswith("location") or field.name in (
            "list_start",
            "list_end",
            "rexpr_list_start",
            "rexpr_list_end",
        ):
            continue
        if field.message_type is None:
            parts.append((field.name, list(value) if field.is_repeated else value))
        else:
            parts.append((field.name, [_plain(part) for part in (value if field.is_repeated else (value,))]))
    return parts
