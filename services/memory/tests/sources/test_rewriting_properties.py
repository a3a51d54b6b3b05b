"""Whatever query is put together: what is performed in its place reads no canary."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from slipway_chassis.errors import SlipwayError
from slipway_memory.sources.declaration import SourceColumn, SourceTable
from slipway_memory.sources.sql.analysis import analyse
from slipway_memory.sources.sql.rewriting import rewrite
from slipway_memory.sources.sql.text import read_names

TABLES = (
    SourceTable(
        "customers",
        "public",
        "customers",
        "",
        tuple(SourceColumn(name) for name in ("id", "name", "region")),
        "tenant_id = :tenant",
    ),
    SourceTable(
        "orders", "sales", "orders_v2", "", tuple(SourceColumn(name) for name in ("id", "customer_id", "total"))
    ),
)
# Names of what there is, declared or not, of WITH and of aliases: out of one pool, so that they shadow each other.
NAMES = st.sampled_from(
    ["customers", "customers", "orders", "secrets", "a", "slipway_0", "public.customers", "sales.customers"]
)
ALIASES = st.sampled_from(["customers", "secrets", "a", "b"])
COLUMNS = st.sampled_from(
    ["id", "id", "name", "region", "ssn", "value", "tenant_id", "margin", "*", "count(*)", "customers"]
)


@st.composite
def _column(draw: Any) -> str:
    name = draw(COLUMNS)
    return f"{draw(ALIASES)}.{name}" if name != "count(*)" and draw(st.booleans()) else name


def _from(select: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    table = st.builds(lambda name, alias: f"{name} {alias}".strip(), NAMES, st.one_of(st.just(""), ALIASES))
    nested = st.builds(
        lambda lateral, inner, alias: f"{lateral}({inner}) AS {alias}",
        st.sampled_from(["", "LATERAL "]),
        select,
        ALIASES,
    )
    one = st.one_of(table, table, nested)
    joined = st.builds(
        lambda left, kind, right, on: f"{left} {kind} JOIN {right} {on}",
        one,
        st.sampled_from(["", "LEFT", "FULL"]),
        one,
        st.sampled_from(["ON true", "USING (id)", "ON 1 = 1"]),
    )
    return st.one_of(one, joined, st.builds(lambda left, right: f"{left}, {right}", one, one))


def _larger(select: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    condition = st.one_of(
        st.just(""),
        st.just(""),
        st.builds(lambda column: f" WHERE {column} IS NOT NULL", _column()),
        st.builds(lambda inner: f" WHERE EXISTS ({inner})", select),
    )
    target = st.one_of(_column(), _column(), st.builds(lambda inner: f"({inner} LIMIT 1)", select))
    plain = st.builds(
        lambda what, source, where: f"SELECT {what} FROM {source}{where}", target, _from(select), condition
    )
    return st.one_of(
        plain,
        plain,
        st.builds(lambda one, other: f"{one} UNION ALL {other}", plain, plain),
        st.builds(
            lambda recursive, name, inner, outer: f"WITH {recursive}{name} AS ({inner}) {outer}",
            st.sampled_from(["", "", "RECURSIVE "]),
            ALIASES,
            select,
            plain,
        ),
    )


QUERIES = st.recursive(st.builds(lambda c, t: f"SELECT {c} FROM {t}", _column(), NAMES), _larger, max_leaves=6)


@pytest.fixture(scope="module")
def read(source_database: Any) -> Iterator[Any]:
    """Performs a statement as the role that may read every canary."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(source_database.reader_url))

        async def fetch(sql: str, values: list[str]) -> str:
            await connection.execute("SET search_path = pg_catalog, pg_temp")
            try:
                return str([list(map(str, row)) for row in await connection.fetch(sql, *values)])
            except asyncpg.PostgresError as error:
                return f"error {error}"

        yield lambda sql, values: runner.run(fetch(sql, values))
        runner.run(connection.close())


def test_no_query_that_is_performed_reads_a_canary(read: Any) -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(QUERIES)
    def holds(sql: str) -> None:
        try:
            statement = rewrite(analyse(read_names(sql), TABLES), {})
        except SlipwayError as error:
            outcomes[error.reason] += 1
            return
        answer = read(statement.sql, ["acme"] * len(statement.attributes))
        outcomes["error" if answer.startswith("error") else "rows" if answer != "[]" else "empty"] += 1
        assert "CANARY" not in answer, (sql, statement.sql)

    holds()
    # What is generated must be worth the name: queries with rows, and refusals.
    assert outcomes["rows"] >= 10, outcomes
    assert outcomes["SQL_UNKNOWN_TABLE"] >= 10, outcomes
