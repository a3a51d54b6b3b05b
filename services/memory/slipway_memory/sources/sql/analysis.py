"""A walk over a query that refuses what it does not know, and finds every place that names a table or a column.

Why what comes out can't reach anything else:
- Each reference to a table is replaced by a subquery over the declared table, with the row filter, and with just those
  columns that the walk says are needed. A column that it overlooked is missing there: PostgreSQL refuses the query.
- Names of common table expressions are replaced by names of ours. Where the walk misjudged a name's reach, PostgreSQL
  finds nothing of that name.
- Nodes, fields, functions, operators and types that are not on a list are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from postgast import pg_query_pb2 as pg

from slipway_memory.sources.declaration import SourceTable
from slipway_memory.sources.errors import SqlNotAllowed, UnknownTable
from slipway_memory.sources.sql.expressions import Expressions
from slipway_memory.sources.sql.scope import Item, Level, Names, TableReference, output_names
from slipway_memory.sources.sql.text import NamedSql, parse_select

CTE_PREFIX = "slipway_"
_MOST_REFERENCES = 64
_FIELDS = """
distinct_clause target_list from_clause where_clause group_clause group_distinct having_clause window_clause
values_lists sort_clause limit_offset limit_count limit_option with_clause op all larg rarg
"""
_SELECT_FIELDS = frozenset(_FIELDS.split())


@dataclass
class _Cte:
    """A common table expression: its name in the statement that is performed, and its columns once they are known."""

    name: str
    names: Sequence[str] | None = None


_Ctes = Mapping[str, _Cte]


@dataclass
class Analysis:
    """A query that may be performed once its columns are permitted."""

    named: NamedSql
    statement: pg.SelectStmt
    references: list[TableReference] = field(default_factory=list[TableReference])

    @property
    def columns(self) -> dict[str, set[str]]:
        """Columns that the query needs, by table."""
        found: dict[str, set[str]] = {}
        for reference in self.references:
            found.setdefault(reference.table.name, set()).update(reference.used)
        return found


def analyse(named: NamedSql, tables: Sequence[SourceTable]) -> Analysis:
    """Read a query over declared tables.

    Raises:
        SqlInvalid, SqlNotAllowed, UnknownTable, UnknownColumn.
    """
    analysis = Analysis(named, parse_select(named))
    _Walk(analysis, {table.name: table for table in tables}).select(analysis.statement, None, {})
    return analysis


class _Walk:
    def __init__(self, analysis: Analysis, tables: Mapping[str, SourceTable]) -> None:
        self._analysis = analysis
        self._named = analysis.named
        self._tables = tables
        self._names = Names(analysis.named)
        self._ctes = 0

    def _refuse(self, message: str, location: int = -1) -> SqlNotAllowed:
        return SqlNotAllowed(message, field="sql", metadata=self._named.where(location))

    def _expressions(self, level: Level, ctes: _Ctes) -> Expressions:
        return Expressions(
            self._named,
            lambda reference: self._names.resolve(reference, level),
            lambda statement: self._subquery(statement, level, ctes),
        )

    def _subquery(self, statement: pg.SelectStmt, level: Level, ctes: _Ctes) -> None:
        self.select(statement, level, ctes)

    def select(
        self, statement: pg.SelectStmt, outer: Level | None, ctes: _Ctes, recursion: _Cte | None = None
    ) -> list[str]:
        """Walk a SELECT; the names of its columns. `recursion` is the recursive expression whose body it is."""
        for descriptor, _ in statement.ListFields():
            if descriptor.name not in _SELECT_FIELDS:
                raise self._refuse(f"{descriptor.name.replace('_', ' ')} is not allowed in a query")
        if statement.HasField("with_clause"):
            ctes = self._with(statement.with_clause, outer, ctes)
        level = Level(outer)
        if statement.op != pg.SETOP_NONE:
            names = self.select(statement.larg, outer, ctes)
            if recursion and recursion.names is None:
                recursion.names = names
            self.select(statement.rarg, outer, ctes)
            level.items.append(Item("", names))
        else:
            for node in statement.from_clause:
                self._from(node, level, ctes)
            names = output_names(statement, level)
        self._clauses(statement, self._expressions(level, ctes))
        return names

    def _clauses(self, statement: pg.SelectStmt, walk: Expressions) -> None:
        for node in statement.target_list:
            if node.res_target.indirection:
                raise self._refuse("this target is not allowed", node.res_target.location)
            walk.walk(node.res_target.val)
        for clause in (statement.where_clause, statement.having_clause, statement.limit_offset, statement.limit_count):
            walk.walk(clause)
        walk.walk_all(statement.values_lists)
        walk.walk_all(statement.group_clause)
        walk.walk_all(statement.window_clause)
        aliases = {node.res_target.name for node in statement.target_list} - {""}
        walk.walk_all(node for node in statement.distinct_clause if not _names_output(node, aliases))
        for node in statement.sort_clause:
            if node.sort_by.use_op or not _names_output(node.sort_by.node, aliases):
                walk.walk(node)

    def _with(self, clause: pg.WithClause, outer: Level | None, around: _Ctes) -> _Ctes:
        known = dict(around)
        expressions = [node.common_table_expr for node in clause.ctes]
        mine = [_Cte(f"{CTE_PREFIX}{self._ctes + index}") for index in range(len(expressions))]
        self._ctes += len(expressions)
        for expression, cte in zip(expressions, mine, strict=True):
            if expression.HasField("search_clause") or expression.HasField("cycle_clause"):
                raise self._refuse("SEARCH and CYCLE are not allowed", expression.location)
            if expression.ctequery.WhichOneof("node") != "select_stmt":
                raise self._refuse("WITH may hold SELECT only", expression.location)
            columns = [node.string.sval for node in expression.aliascolnames]
            body = expression.ctequery.select_stmt
            name = expression.ctename
            if clause.recursive:
                if columns:
                    cte.names = columns
                names = self.select(body, outer, {**known, name: cte}, recursion=cte)
            else:
                names = self.select(body, outer, known)
            cte.names = columns + names[len(columns) :]
            expression.ctename = cte.name
            known[name] = cte
        return known

    def _from(self, node: pg.Node, level: Level, ctes: _Ctes) -> None:
        match node.WhichOneof("node"):
            case "range_var":
                level.items.append(self._table(node, ctes))
            case "range_subselect":
                part = node.range_subselect
                names = self.select(part.subquery.select_stmt, level if part.lateral else level.outer, ctes)
                columns = [column.string.sval for column in part.alias.colnames]
                level.items.append(Item(part.alias.aliasname, columns + names[len(columns) :]))
            case "join_expr":
                self._join(node.join_expr, level, ctes)
            case kind:
                raise self._refuse(f"{(kind or 'this').replace('_', ' ')} in FROM is not allowed")

    def _join(self, join: pg.JoinExpr, level: Level, ctes: _Ctes) -> None:
        if join.is_natural:
            raise self._refuse("NATURAL JOIN is not allowed: say USING (…)")
        if join.HasField("alias") or join.HasField("join_using_alias"):
            raise self._refuse("an alias of a join is not allowed: give one to each table")
        first = len(level.items)
        self._from(join.larg, level, ctes)
        self._from(join.rarg, level, ctes)
        for column in join.using_clause:
            self._names.merge(column.string.sval, level.items[first:])
        self._expressions(level, ctes).walk(join.quals)

    def _table(self, node: pg.Node, ctes: _Ctes) -> Item:
        found = node.range_var
        alias = found.alias.aliasname or found.relname
        columns = [column.string.sval for column in found.alias.colnames]
        cte = ctes.get(found.relname) if not found.schemaname and not found.catalogname else None
        if cte is not None:
            if cte.names is None:
                raise self._refuse("a recursive query begins with the part that does not recur", found.location)
            found.relname = cte.name
            found.alias.aliasname = alias
            return Item(alias, columns + list(cte.names[len(columns) :]))
        table = self._tables.get(found.relname)
        if found.catalogname or table is None or found.schemaname not in ("", table.schema):
            shown = ".".join(part for part in (found.catalogname, found.schemaname, found.relname) if part)
            raise UnknownTable(
                f"there is no table {shown[:200]}", field="sql", metadata=self._named.where(found.location)
            )
        if not found.inh or columns:
            raise self._refuse("ONLY and other names for columns are not allowed here", found.location)
        if len(self._analysis.references) >= _MOST_REFERENCES:
            raise self._refuse(f"a query names tables at most {_MOST_REFERENCES} times")
        reference = TableReference(table, alias, node)
        self._analysis.references.append(reference)
        return Item(alias, [column.name for column in table.columns], reference)


def _names_output(node: pg.Node, aliases: set[str]) -> bool:
    """True for a bare name in ORDER BY or DISTINCT ON that is the name of a column of the result."""
    fields = node.column_ref.fields if node.WhichOneof("node") == "column_ref" else ()
    return len(fields) == 1 and fields[0].string.sval in aliases
