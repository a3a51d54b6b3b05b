"""Errors of data sources. Each reason is stable and public.

InvalidArgument
├── SqlInvalid, SqlNotAllowed, UnknownTable, UnknownColumn, ParametersInvalid
└── SourceRegionNotAllowed
NotFound
└── SourceNotFound
PermissionDenied
└── ColumnDenied
FailedPrecondition
└── SourceUrlUnavailable, SourceHostNotAllowed, SourceRoleUnsafe, QueryTooCostly, QueryRefused
ResourceExhausted
└── SourceBusy, RowTooLarge
Unavailable
└── SourceUnavailable
DeadlineExceeded
└── QueryTimeout
"""

from __future__ import annotations

from slipway_chassis.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)


class SqlInvalid(InvalidArgument):
    """The text is no SQL that PostgreSQL understands; the metadata may hold `position`, in characters from 1."""

    reason = "SQL_INVALID"


class SqlNotAllowed(InvalidArgument):
    """It is SQL, but more than a query may hold: one SELECT with known functions, operators and types."""

    reason = "SQL_NOT_ALLOWED"


class UnknownTable(InvalidArgument):
    """The query names a table that the data source does not declare."""

    reason = "SQL_UNKNOWN_TABLE"


class UnknownColumn(InvalidArgument):
    """The query names a column that the data source does not declare."""

    reason = "SQL_UNKNOWN_COLUMN"


class ParametersInvalid(InvalidArgument):
    """A value is missing, is not used, or is not of the type that the query needs."""

    reason = "SQL_PARAMETERS_INVALID"


class SourceRegionNotAllowed(InvalidArgument):
    """The data source is not, with all of its data, in the regions that the caller demands."""

    reason = "REGION_NOT_ALLOWED"


class SourceNotFound(NotFound):
    """No such data source in the caller's tenant."""

    reason = "SOURCE_NOT_FOUND"


class ColumnDenied(PermissionDenied):
    """Policy does not let the caller read a column that the query names; `columns` in the metadata lists them."""

    reason = "SOURCE_COLUMN_DENIED"


class SourceUrlUnavailable(FailedPrecondition):
    """The reference to the database's URL leads nowhere, or to something that is no PostgreSQL URL."""

    reason = "SOURCE_URL_UNAVAILABLE"


class SourceHostNotAllowed(FailedPrecondition):
    """The platform's configuration does not allow databases on that host."""

    reason = "SOURCE_HOST_NOT_ALLOWED"


class SourceRoleUnsafe(FailedPrecondition):
    """The role that the URL names is a superuser, or passes by the database's row security."""

    reason = "SOURCE_ROLE_UNSAFE"


class QueryTooCostly(FailedPrecondition):
    """The database's planner expects more work than a query may cause."""

    reason = "SOURCE_QUERY_TOO_COSTLY"


class QueryRefused(FailedPrecondition):
    """The database did not perform the query, e.g. because its role may not read a table or a value divides by zero."""

    reason = "SOURCE_QUERY_FAILED"


class SourceBusy(ResourceExhausted):
    """As many queries of the tenant run as may; try again after the time given."""

    reason = "SOURCE_BUSY"


class RowTooLarge(ResourceExhausted):
    """One row of the result is larger than a whole result may be."""

    reason = "SOURCE_ROW_TOO_LARGE"


class SourceUnavailable(Unavailable):
    """The database does not answer."""

    reason = "SOURCE_UNAVAILABLE"


class QueryTimeout(DeadlineExceeded):
    """The query took longer than it may."""

    reason = "SOURCE_QUERY_TIMEOUT"
