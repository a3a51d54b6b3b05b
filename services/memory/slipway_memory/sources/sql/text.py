"""Text of SQL: parsed by PostgreSQL's own parser, values by name, positions as their authors count them."""

from __future__ import annotations

from dataclasses import dataclass

import postgast
from google.protobuf.message import DecodeError
from postgast import pg_query_pb2 as pg

from slipway_memory.sources.errors import SqlInvalid, SqlNotAllowed

LONGEST_SQL = 32 * 1024


@dataclass(frozen=True)
class NamedSql:
    """SQL with its values by number, their names in that order, and how to find the way back into the text."""

    original: str
    numbered: str
    names: tuple[str, ...]
    # Pairs of offsets in UTF-8: from there on in `numbered`, and the same place in `original`.
    moved: tuple[tuple[int, int], ...]

    def position(self, location: int) -> int:
        """A parser's location, in bytes of `numbered`, as a place in `original`, in characters from 1."""
        start, place = next(pair for pair in reversed(self.moved) if pair[0] <= max(location, 0))
        encoded = self.original.encode()
        offset = min(place + max(location, 0) - start, len(encoded))
        return len(encoded[:offset].decode(errors="ignore")) + 1

    def where(self, location: int) -> dict[str, str]:
        """Metadata of an error at a location; none for an unknown one."""
        return {"position": str(self.position(location))} if location >= 0 else {}


def read_names(sql: str) -> NamedSql:
    """Find `:name` in a text outside of strings, identifiers and comments; `$1` is refused.

    Raises:
        SqlInvalid: the text can't be read. SqlNotAllowed: it numbers its values.
    """
    if "\0" in sql or len(sql.encode()) > LONGEST_SQL:
        raise SqlInvalid(f"a query has at most {LONGEST_SQL} bytes, none of them NUL", field="sql")
    source = sql.encode()
    try:
        tokens = postgast.scan(sql).tokens
    except (postgast.PgQueryError, DecodeError) as error:
        raise SqlInvalid(str(error), field="sql") from None
    names: list[str] = []
    out, moved, done = b"", [(0, 0)], 0
    for index, token in enumerate(tokens):
        if token.token == pg.PARAM:
            plain = NamedSql(sql, sql, (), ((0, 0),))
            raise SqlNotAllowed("write values as :name, not as $1", field="sql", metadata=plain.where(token.start))
        follower = tokens[index + 1] if index + 1 < len(tokens) else None
        if token.token != pg.ASCII_58 or follower is None or follower.start != token.end:
            continue
        name = source[follower.start : follower.end].decode()
        if not name.isidentifier() or not name.isascii():
            continue
        if name not in names:
            names.append(name)
        out += source[done : token.start] + f"${names.index(name) + 1}".encode()
        done = follower.end
        moved.append((len(out), done))
    return NamedSql(sql, (out + source[done:]).decode(), tuple(names), tuple(moved))


def parse_select(named: NamedSql) -> pg.SelectStmt:
    """The one SELECT that a text is.

    Raises:
        SqlInvalid: it is no SQL. SqlNotAllowed: it is more, or something else.
    """
    try:
        tree = postgast.parse(named.numbered)
    except postgast.PgQueryError as error:
        # The parser counts characters in its errors, and bytes in its tree.
        location = len(named.numbered[: max(error.cursorpos - 1, 0)].encode())
        found = named.where(location if error.cursorpos else -1)
        raise SqlInvalid(error.message, field="sql", metadata=found) from None
    except DecodeError:
        raise SqlNotAllowed("it is nested too deeply", field="sql") from None
    if len(tree.stmts) != 1:
        count = "no statement" if not tree.stmts else f"{len(tree.stmts)} statements"
        raise SqlNotAllowed(f"write one SELECT: this is {count}", field="sql")
    kind = tree.stmts[0].stmt.WhichOneof("node")
    if kind != "select_stmt":
        raise SqlNotAllowed(f"write one SELECT: this is {(kind or '').removesuffix('_stmt')}", field="sql")
    return tree.stmts[0].stmt.select_stmt


def write_select(statement: pg.SelectStmt) -> str:
    """The text of a statement. Raises SqlNotAllowed for one that the library can't write."""
    try:
        return postgast.deparse(pg.ParseResult(stmts=[pg.RawStmt(stmt=pg.Node(select_stmt=statement))]))
    except postgast.PgQueryError as error:
        raise SqlNotAllowed(error.message, field="sql") from None


def quoted(identifier: str) -> str:
    """An identifier in quotes."""
    return '"' + identifier.replace('"', '""') + '"'
