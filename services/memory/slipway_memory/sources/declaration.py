"""What a data source declares: its tables and columns, who sees what of them, and where its database is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from slipway_chassis.errors import FieldViolation, InvalidArgument

from slipway_memory.access import check_readers
from slipway_memory.knowledge import check_regions
from slipway_memory.sources.errors import SqlInvalid, SqlNotAllowed
from slipway_memory.sources.sql.row_filter import RowFilter, read_row_filter

Mask = Literal["", "null", "redact", "last4", "email_domain"]
MOST_TABLES, MOST_COLUMNS = 200, 500
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CLASS = re.compile(r"[a-z][a-z0-9-]{0,31}")
_URL = re.compile(r"(secret|file):[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LONGEST_IDENTIFIER = 63


class InvalidSource(InvalidArgument):
    """The declaration of a data source is wrong; the violations say where."""

    reason = "INVALID_SOURCE"


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column that queries may name."""

    name: str
    description: str = ""
    data_class: str = ""
    mask: Mask = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table that queries may name; `schema` and `relation` say what it is called in the database."""

    name: str
    schema: str
    relation: str
    description: str
    columns: tuple[SourceColumn, ...]
    row_filter: str = ""

    def column(self, name: str) -> SourceColumn | None:
        """The declared column of that name."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def filter(self) -> RowFilter | None:
        """The row filter, read; it was checked when it was declared."""
        return read_row_filter(self.row_filter) if self.row_filter else None


@dataclass(frozen=True, slots=True)
class SourceDeclaration:
    """What somebody declares of a data source; checked when made."""

    name: str
    description: str
    url: str
    regions: tuple[str, ...]
    tables: tuple[SourceTable, ...]

    def check(self) -> SourceDeclaration:
        """Itself, with regions in order. Raises InvalidSource with a violation per fault, InvalidArgument."""
        check_source_name(self.name)
        faults: list[FieldViolation] = []
        if len(self.description) > 2000 or "\0" in self.description:
            faults.append(FieldViolation("description", "must be at most 2000 characters of text"))
        if not _URL.fullmatch(self.url):
            faults.append(FieldViolation("url", "must be `secret:NAME` or `file:NAME`: the URL itself is kept there"))
        if not 1 <= len(self.tables) <= MOST_TABLES:
            faults.append(FieldViolation("tables", f"must be 1 to {MOST_TABLES}"))
        faults += _repeated("tables", (table.name for table in self.tables))
        for position, table in enumerate(self.tables):
            faults += _table_faults(f"tables[{position}]", table)
        if faults:
            raise InvalidSource("the declaration of the data source is wrong", violations=faults)
        return SourceDeclaration(
            self.name, self.description, self.url, check_regions(self.regions), tuple(map(_ordered, self.tables))
        )

    @property
    def data_classes(self) -> tuple[str, ...]:
        """Classes of its columns."""
        return tuple(sorted({c.data_class for table in self.tables for c in table.columns} - {""}))


@dataclass(frozen=True, slots=True)
class Source:
    """A data source as it is kept."""

    source_id: str
    tenant: str
    owner: str
    version: int
    declaration: SourceDeclaration
    create_time: datetime
    update_time: datetime

    @property
    def name(self) -> str:
        """Its name in the tenant."""
        return self.declaration.name


def check_source_name(name: str) -> None:
    """Raises InvalidArgument for what can't be a data source's name."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument("lower-case letters, digits and '-', at most 63, not starting with '-'", field="source")


def _ordered(table: SourceTable) -> SourceTable:
    columns = tuple(
        SourceColumn(c.name, c.description, c.data_class, c.mask, check_readers(c.readers)) for c in table.columns
    )
    return SourceTable(table.name, table.schema, table.relation, table.description, columns, table.row_filter)


def _table_faults(field: str, table: SourceTable) -> list[FieldViolation]:
    faults = _identifier_faults(f"{field}.name", table.name)
    faults += _identifier_faults(f"{field}.schema", table.schema)
    faults += _identifier_faults(f"{field}.relation", table.relation)
    if table.schema == "information_schema" or table.schema.startswith("pg_"):
        faults.append(FieldViolation(f"{field}.schema", "is the database's own: its tables are not offered"))
    if not 1 <= len(table.columns) <= MOST_COLUMNS:
        faults.append(FieldViolation(f"{field}.columns", f"must be 1 to {MOST_COLUMNS}"))
    faults += _description_faults(f"{field}.description", table.description)
    faults += _repeated(f"{field}.columns", (column.name for column in table.columns))
    for position, column in enumerate(table.columns):
        faults += _column_faults(f"{field}.columns[{position}]", column)
    if table.row_filter:
        try:
            read_row_filter(table.row_filter)
        except (SqlInvalid, SqlNotAllowed) as error:
            faults.append(FieldViolation(f"{field}.row_filter", error.message))
    return faults


def _column_faults(field: str, column: SourceColumn) -> list[FieldViolation]:
    faults = _identifier_faults(f"{field}.name", column.name)
    faults += _description_faults(f"{field}.description", column.description)
    if column.data_class and not _CLASS.fullmatch(column.data_class):
        faults.append(FieldViolation(f"{field}.data_class", "must be lower-case letters, digits and '-', at most 32"))
    if column.mask not in get_args(Mask):
        faults.append(FieldViolation(f"{field}.mask", "must be null, redact, last4 or email_domain"))
    if (column.mask or column.readers) and not column.data_class:
        faults.append(FieldViolation(f"{field}.data_class", "is needed: without a class nobody is shown the mask"))
    try:
        check_readers(column.readers)
    except InvalidArgument as error:
        faults.append(FieldViolation(f"{field}.readers", error.message))
    return faults


def _identifier_faults(field: str, name: str) -> list[FieldViolation]:
    if 1 <= len(name.encode("utf-8", "replace")) <= _LONGEST_IDENTIFIER and name.isprintable():
        return []
    return [FieldViolation(field, f"must be 1 to {_LONGEST_IDENTIFIER} bytes of printable characters")]


def _description_faults(field: str, text: str) -> list[FieldViolation]:
    return [FieldViolation(field, "must be at most 2000 characters of text")] if len(text) > 2000 else []


def _repeated(field: str, names: Iterable[str]) -> Sequence[FieldViolation]:
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]
    return [FieldViolation(field, f"names {name} twice") for name in sorted(set(twice))]
