"""What an expression may be made of. Whatever is not known here is refused: the walk fails closed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from google.protobuf.message import Message
from postgast import pg_query_pb2 as pg

from slipway_memory.sources.errors import SqlNotAllowed
from slipway_memory.sources.sql.allowed import FUNCTIONS, OPERATORS, TYPES, VALUE_FUNCTIONS
from slipway_memory.sources.sql.text import NamedSql

# Nodes that hold nothing but expressions: all of their fields are walked.
_KINDS = """
bool_expr null_test boolean_test case_expr case_when coalesce_expr min_max_expr a_array_expr row_expr list grouping_set
grouping_func a_indices window_def sort_by a_expr func_call type_cast a_indirection
"""
_PLAIN = frozenset(_KINDS.split())
# Messages that are no nodes, as fields of the above.
_PLAIN_PARTS = frozenset({"pg_query.WindowDef"})


class Expressions:
    """Walks expressions; columns and subqueries are the business of whoever knows the tables around them."""

    def __init__(
        self, named: NamedSql, column: Callable[[pg.ColumnRef], None], subquery: Callable[[pg.SelectStmt], None]
    ) -> None:
        self._named = named
        self._column = column
        self._subquery = subquery

    def refuse(self, message: str, location: int = -1) -> SqlNotAllowed:
        """The error for what is at a place in the text."""
        return SqlNotAllowed(message, field="sql", metadata=self._named.where(location))

    def walk_all(self, nodes: Iterable[pg.Node]) -> None:
        """Walk several."""
        for node in nodes:
            self.walk(node)

    def walk(self, node: pg.Node) -> None:
        """Walk one. Raises SqlNotAllowed."""
        kind = node.WhichOneof("node")
        if kind is None:
            return
        message: Message = getattr(node, kind)
        match message:
            case pg.ColumnRef():
                self._column(message)
            case pg.SubLink():
                self._sub_link(message)
            case pg.A_Const() | pg.ParamRef():
                pass
            case pg.SQLValueFunction():
                if pg.SQLValueFunctionOp.Name(message.op) not in VALUE_FUNCTIONS:
                    raise self.refuse("the session's own facts are not for queries", message.location)
            case _ if kind in _PLAIN:
                self._check(message)
                self._parts(message, skip=("name", "funcname", "type_name"))
            case _:
                raise self.refuse(f"{kind.replace('_', ' ')} is not allowed", getattr(message, "location", -1))

    def _check(self, message: Message) -> None:
        match message:
            case pg.FuncCall():
                self._function(message)
            case pg.A_Expr():
                self.operator(message.name, message.location)
            case pg.TypeCast():
                self._type(message.type_name)
            case pg.SortBy() if message.use_op:
                raise self.refuse("ORDER BY … USING is not allowed", message.location)
            case pg.A_Indirection():
                if any(part.WhichOneof("node") != "a_indices" for part in message.indirection):
                    raise self.refuse("fields of values are not allowed: name the column")
            case _:
                pass

    def _parts(self, message: Message, skip: tuple[str, ...] = ()) -> None:
        for field, value in message.ListFields():
            if field.message_type is None or field.name in skip:
                continue
            for part in value if field.is_repeated else (value,):
                if isinstance(part, pg.Node):
                    self.walk(part)
                elif field.message_type.full_name in _PLAIN_PARTS:
                    self._parts(part)
                else:
                    raise self.refuse(f"{field.name.replace('_', ' ')} is not allowed")

    def _sub_link(self, link: pg.SubLink) -> None:
        if link.oper_name:
            self.operator(link.oper_name, link.location)
        self.walk(link.testexpr)
        if link.subselect.WhichOneof("node") != "select_stmt":
            raise self.refuse("this subquery is not allowed", link.location)
        self._subquery(link.subselect.select_stmt)

    def _function(self, call: pg.FuncCall) -> None:
        name = self._name(call.funcname)
        if name not in FUNCTIONS:
            raise self.refuse(f"the function {name[:64]} is not allowed", call.location)
        if call.func_variadic:
            raise self.refuse("VARIADIC is not allowed", call.location)

    def operator(self, parts: Iterable[pg.Node], location: int) -> None:
        """Raises SqlNotAllowed for an operator that is not known, or of a schema."""
        name = ".".join(part.string.sval for part in parts)
        if name not in OPERATORS:
            raise self.refuse(f"the operator {name[:64]} is not allowed", location)

    def _type(self, type_name: pg.TypeName) -> None:
        name = self._name(type_name.names)
        if name not in TYPES or type_name.setof or type_name.pct_type:
            raise self.refuse(f"the type {name[:64]} is not allowed", type_name.location)
        self.walk_all(type_name.typmods)

    @staticmethod
    def _name(parts: Iterable[pg.Node]) -> str:
        """A name without pg_catalog, in which alone names are looked up."""
        names = [part.string.sval for part in parts]
        return ".".join(names[1:] if len(names) > 1 and names[0] == "pg_catalog" else names)
