"""Names in a query: what stands in FROM, and which column of which table a reference means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from postgast import pg_query_pb2 as pg

from slipway_memory.sources.errors import SqlNotAllowed, UnknownColumn
from slipway_memory.sources.sql.text import NamedSql

if TYPE_CHECKING:
    from slipway_memory.sources.declaration import SourceTable


@dataclass
class TableReference:
    """A place in the query that names a declared table, and the columns that it needs of it."""

    table: SourceTable
    alias: str
    node: pg.Node
    used: set[str] = field(default_factory=set[str])


@dataclass
class Item:
    """Something in FROM: its name there and its columns. `reference` is None for what the query itself makes."""

    alias: str
    names: Sequence[str]
    reference: TableReference | None = None

    def use(self, name: str) -> None:
        """The query needs this column."""
        if self.reference:
            self.reference.used.add(name)

    def use_all(self) -> None:
        """The query needs every column."""
        if self.reference:
            self.reference.used.update(self.names)


@dataclass
class Level:
    """What one SELECT sees: its own FROM, and the SELECTs around it."""

    outer: Level | None
    items: list[Item] = field(default_factory=list[Item])


class Names:
    """Resolves references to columns as PostgreSQL does; what it can't resolve is refused."""

    def __init__(self, named: NamedSql) -> None:
        self._named = named

    def resolve(self, reference: pg.ColumnRef, level: Level | None) -> None:
        """Mark the columns that a reference means. Raises UnknownColumn, SqlNotAllowed."""
        parts = [part.string.sval if part.WhichOneof("node") == "string" else None for part in reference.fields]
        match parts:
            case [None]:
                for item in level.items if level else ():
                    item.use_all()
            case [str(alias), None]:
                self._item(alias, level, reference).use_all()
            case [str(name)]:
                self._by_name(name, level, reference)
            case [str(alias), str(name)]:
                item = self._item(alias, level, reference)
                if name not in item.names:
                    raise self._unknown(f"{alias}.{name}", reference)
                item.use(name)
            case _:
                raise SqlNotAllowed(
                    "name columns as table.column",
                    field="sql",
                    metadata=self._named.where(reference.location),
                )

    def merge(self, name: str, items: Sequence[Item]) -> None:
        """Mark a column of JOIN … USING in the items joined. Raises UnknownColumn."""
        holders = [item for item in items if name in item.names]
        if not holders:
            raise UnknownColumn(f"there is no column {name[:63]}", field="sql")
        for item in holders:
            item.use(name)

    def _by_name(self, name: str, level: Level | None, reference: pg.ColumnRef) -> None:
        current = level
        while current:
            holders = [item for item in current.items if name in item.names]
            if holders:
                for item in holders:
                    item.use(name)
                return
            current = current.outer
        # Not a column: a whole row by its table's name.
        try:
            self._item(name, level, reference).use_all()
        except UnknownColumn:
            raise self._unknown(name, reference) from None

    def _item(self, alias: str, level: Level | None, reference: pg.ColumnRef) -> Item:
        current = level
        while current:
            for item in current.items:
                if item.alias == alias:
                    return item
            current = current.outer
        raise self._unknown(alias, reference)

    def _unknown(self, name: str, reference: pg.ColumnRef) -> UnknownColumn:
        return UnknownColumn(
            f"there is no column {name[:130]}", field="sql", metadata=self._named.where(reference.location)
        )


def output_names(statement: pg.SelectStmt, level: Level) -> list[str]:
    """Names of a SELECT's columns, as PostgreSQL gives them (FigureColname in parse_target.c)."""
    if statement.values_lists:
        return [f"column{index + 1}" for index in range(len(statement.values_lists[0].list.items))]
    names: list[str] = []
    for node in statement.target_list:
        target = node.res_target
        if target.name:
            names.append(target.name)
        elif target.val.WhichOneof("node") == "column_ref" and _is_star(target.val.column_ref):
            fields = target.val.column_ref.fields
            alias = fields[0].string.sval if len(fields) > 1 else None
            for item in level.items:
                names += item.names if alias in (None, item.alias) else ()
        else:
            names.append(_figure(target.val) or "?column?")
    return names


def _is_star(reference: pg.ColumnRef) -> bool:
    return reference.fields[-1].WhichOneof("node") == "a_star"


_FIXED_NAMES = {"a_array_expr": "array", "row_expr": "row", "coalesce_expr": "coalesce", "grouping_func": "grouping"}


def _figure(node: pg.Node) -> str:
    match node.WhichOneof("node"):
        case "column_ref":
            return node.column_ref.fields[-1].string.sval
        case "func_call":
            return node.func_call.funcname[-1].string.sval
        case "a_expr" if node.a_expr.kind == pg.AEXPR_NULLIF:
            return "nullif"
        case "a_indirection":
            return _figure(node.a_indirection.arg)
        case "type_cast":
            return _figure(node.type_cast.arg) or node.type_cast.type_name.names[-1].string.sval
        case "case_expr":
            return _figure(node.case_expr.defresult) or "case"
        case "min_max_expr":
            return "greatest" if node.min_max_expr.op == pg.IS_GREATEST else "least"
        case "sublink" | "sub_link":
            return _of_subquery(node.sub_link)
        case "sqlvalue_function":
            name = pg.SQLValueFunctionOp.Name(node.sqlvalue_function.op)
            return name.removeprefix("SVFOP_").removesuffix("_N").lower()
        case kind:
            return _FIXED_NAMES.get(kind or "", "")


def _of_subquery(link: pg.SubLink) -> str:
    if link.sub_link_type == pg.EXISTS_SUBLINK:
        return "exists"
    if link.sub_link_type == pg.ARRAY_SUBLINK:
        return "array"
    if link.sub_link_type != pg.EXPR_SUBLINK:
        return ""
    statement = link.subselect.select_stmt
    while statement.op != pg.SETOP_NONE:
        statement = statement.larg
    if not statement.target_list:
        return "column1" if statement.values_lists else ""
    target = statement.target_list[0].res_target
    return target.name or _figure(target.val)
