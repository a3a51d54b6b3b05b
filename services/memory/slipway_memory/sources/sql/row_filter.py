"""Row filters: a condition on a table's own columns, with the caller's attributes in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import postgast
from postgast import pg_query_pb2 as pg

from slipway_memory.sources.errors import SqlNotAllowed
from slipway_memory.sources.sql.expressions import Expressions
from slipway_memory.sources.sql.text import parse_select, read_names, write_select

# The caller's attributes, and what they are in the database.
ATTRIBUTES = {"tenant": "text", "subject": "text", "roles": "text[]", "groups": "text[]"}
_LONGEST_FILTER = 4096


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A checked condition. Its values are numbered from 1 in the order of `names`."""

    condition: pg.Node
    names: tuple[str, ...]

    def numbered_from(self, first: int) -> str:
        """The condition as text, with its values numbered from `first` and typed."""
        statement = pg.SelectStmt(limit_option=pg.LIMIT_OPTION_DEFAULT, op=pg.SETOP_NONE)
        statement.where_clause.CopyFrom(self.condition)
        for reference in _parameters(statement):
            number = reference.param_ref.number
            typed = postgast.parse(f"SELECT CAST(${first + number - 1} AS {ATTRIBUTES[self.names[number - 1]]})")
            reference.CopyFrom(typed.stmts[0].stmt.select_stmt.target_list[0].res_target.val)
        return write_select(statement).removeprefix("SELECT").strip().removeprefix("WHERE").strip()


@lru_cache(maxsize=1024)
def read_row_filter(text: str) -> RowFilter:
    """Check a condition. Raises SqlInvalid, SqlNotAllowed."""
    if len(text) > _LONGEST_FILTER:
        raise SqlNotAllowed(f"a row filter has at most {_LONGEST_FILTER} characters")
    named = read_names(f"SELECT WHERE (\n{text}\n)")
    if unknown := [name for name in named.names if name not in ATTRIBUTES]:
        known = ", ".join(f":{name}" for name in ATTRIBUTES)
        raise SqlNotAllowed(f":{unknown[0]} is no attribute of a caller; there are {known}")
    statement = parse_select(named)
    bare = pg.SelectStmt()
    bare.CopyFrom(statement)
    bare.ClearField("where_clause")
    if bare != pg.SelectStmt(limit_option=pg.LIMIT_OPTION_DEFAULT, op=pg.SETOP_NONE):
        raise SqlNotAllowed("a row filter is one condition")

    def column(reference: pg.ColumnRef) -> None:
        if len(reference.fields) != 1 or reference.fields[0].WhichOneof("node") != "string":
            raise SqlNotAllowed("a row filter names columns of its table alone, without the table's name")

    def subquery(_: pg.SelectStmt) -> None:
        raise SqlNotAllowed("a row filter holds no subquery")

    Expressions(named, column, subquery).walk(statement.where_clause)
    return RowFilter(statement.where_clause, named.names)


def _parameters(message: object) -> list[pg.Node]:
    """All nodes that are numbered values."""
    found: list[pg.Node] = []
    pending: list[object] = [message]
    while pending:
        current = pending.pop()
        if isinstance(current, pg.Node) and current.WhichOneof("node") == "param_ref":
            found.append(current)
            continue
        fields = current.ListFields()  # pyright: ignore[reportAttributeAccessIssue]
        for field, value in fields:
            if field.message_type is not None:
                pending += list(value) if field.is_repeated else [value]
    return found
