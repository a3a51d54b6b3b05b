"""Attempts to leave what is declared, by SQL. The role may read every canary: the rewriting alone keeps them back."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from slipway_chassis.errors import SlipwayError

_REASONS = {"SQL_INVALID", "SQL_NOT_ALLOWED", "SQL_UNKNOWN_TABLE", "SQL_UNKNOWN_COLUMN", "SOURCE_COLUMN_DENIED"}

REFUSED = {
    "another table": "SELECT * FROM secrets",
    "another table by its schema": "SELECT * FROM public.secrets",
    "a declared name in another schema": "SELECT ssn FROM sales.customers",
    "the relation behind a declared name": "SELECT * FROM sales.orders_v2",
    "another database": "SELECT * FROM postgres.public.customers",
    "quoted, in another case": 'SELECT * FROM "SECRETS"',
    "unicode escapes": 'SELECT * FROM U&"\\0073ecrets"',
    "the catalogue": "SELECT * FROM pg_catalog.pg_class",
    "the catalogue without its schema": "SELECT rolname FROM pg_roles",
    "the catalogue's statistics": "SELECT most_common_vals FROM pg_stats",
    "information_schema": "SELECT column_name FROM information_schema.columns",
    "an undeclared column": "SELECT ssn FROM customers",
    "an undeclared column by alias": "SELECT c.ssn FROM customers AS c",
    "an undeclared column in WHERE": "SELECT id FROM customers WHERE ssn LIKE 'CANARY%'",
    "an undeclared column in ORDER BY": "SELECT id FROM customers ORDER BY ssn",
    "an undeclared column in GROUP BY": "SELECT count(*) FROM customers GROUP BY ssn",
    "an undeclared column in a join": "SELECT 1 FROM customers c JOIN orders o ON c.ssn = o.margin",
    "an undeclared column in USING": "SELECT 1 FROM customers JOIN orders USING (ssn)",
    "columns renamed by position": "SELECT i FROM customers AS c(a, b, c, d, e, f, g, h, i)",
    "a system column": "SELECT ctid, xmin, tableoid FROM customers",
    "tableoid as a name": "SELECT customers.tableoid::regclass FROM customers",
    "the row's field": "SELECT (c).ssn FROM customers c",
    "a function in attribute notation": "SELECT c.peek FROM customers c",
    "a column denied by policy": "SELECT salary FROM customers",
    "a denied column by star": "SELECT * FROM customers",
    "a denied column by the whole row": "SELECT to_jsonb(c) FROM customers c",
    "a denied column by a row in a function": "SELECT json_agg(customers) FROM customers",
    "a denied column in a window": "SELECT rank() OVER (ORDER BY salary) FROM customers",
    "a denied column in a filter": "SELECT count(*) FILTER (WHERE salary > 1) FROM customers",
    "a denied column through WITH": "WITH c AS (SELECT * FROM customers) SELECT id FROM c",
    "a denied column through a subquery": "SELECT x.s FROM (SELECT salary AS s FROM customers) x",
    "a denied column, correlated": "SELECT (SELECT max(total) FROM orders WHERE total < c.salary) FROM customers c",
    "two statements": "SELECT 1; SELECT * FROM secrets",
    "the end of the transaction": "SELECT 1; COMMIT; DELETE FROM secrets",
    "DELETE": "DELETE FROM customers",
    "UPDATE": "UPDATE customers SET name = 'x'",
    "INSERT": "INSERT INTO customers VALUES (9)",
    "DDL": "CREATE TABLE x AS SELECT * FROM secrets",
    "COPY to a program": "COPY secrets TO PROGRAM 'cat'",
    "DO": "DO $$ BEGIN PERFORM 1; END $$",
    "CALL": "CALL leak()",
    "EXECUTE": "EXECUTE x",
    "PREPARE": "PREPARE x AS SELECT * FROM secrets",
    "EXPLAIN ANALYZE": "EXPLAIN ANALYZE SELECT * FROM secrets",
    "SET": "SET search_path = sales",
    "SET ROLE": "SET ROLE postgres",
    "LISTEN": "LISTEN x",
    "DECLARE": "DECLARE x CURSOR FOR SELECT * FROM secrets",
    "SELECT INTO": "SELECT name INTO TEMP x FROM customers",
    "FOR UPDATE": "SELECT id FROM customers FOR UPDATE",
    "writing in WITH": "WITH d AS (DELETE FROM secrets RETURNING value) SELECT * FROM d",
    "TABLE": "TABLE secrets",
    "TABLESAMPLE": "SELECT id FROM customers TABLESAMPLE SYSTEM (100)",
    "ONLY": "SELECT id FROM ONLY customers",
    "a natural join": "SELECT name FROM customers NATURAL JOIN (SELECT 'x' AS ssn) x",
    "an alias of a join": "SELECT j.ssn FROM (customers c JOIN orders o ON true) AS j",
    "a server's file": "SELECT pg_read_file('/etc/passwd')",
    "a server's folder": "SELECT pg_ls_dir('/')",
    "a server's file by its schema": "SELECT pg_catalog.pg_read_binary_file('/etc/passwd')",
    "a large object": "SELECT lo_import('/etc/passwd')",
    "a large object's bytes": "SELECT lo_get(1)",
    "SQL in a function": "SELECT query_to_xml('SELECT * FROM secrets', true, true, '')",
    "a table as XML": "SELECT table_to_xml('secrets', true, true, '')",
    "the schema as XML": "SELECT schema_to_xml('public', true, true, '')",
    "dblink": "SELECT * FROM dblink('host=127.0.0.1', 'SELECT 1') AS t(a int)",
    "set_config": "SELECT set_config('search_path', 'sales', false)",
    "current_setting": "SELECT current_setting('data_directory')",
    "pg_sleep": "SELECT pg_sleep(100)",
    "a lock": "SELECT pg_advisory_lock(1)",
    "ending others": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity",
    "a sequence": "SELECT nextval('x')",
    "the session": "SELECT current_user, session_user, current_database()",
    "current_schema": "SELECT current_schema",
    "a function of the database": "SELECT leak()",
    "a function of the database by its schema": "SELECT public.leak()",
    "a function in FROM": "SELECT * FROM leak() AS x(y)",
    "rows out of nothing": "SELECT * FROM generate_series(1, 1000000000)",
    "a value without bound": "SELECT repeat('x', 1000000000)",
    "an operator by its schema": "SELECT 'a' OPERATOR(public.+) 'b'",
    "a type that looks names up": "SELECT 'secrets'::regclass",
    "a type of the database": "SELECT 'CANARY-TYPE'::public.mood",
    "an enumeration": "SELECT enum_range(NULL::public.mood)",
    "a column's type": "SELECT NULL::public.secrets.value%TYPE",
    "a collation": 'SELECT name COLLATE "de" FROM customers',
    "XMLTABLE": "SELECT * FROM XMLTABLE('/a' PASSING '<a/>' COLUMNS b text)",
    "XML": "SELECT xmlelement(name a, name) FROM customers",
    "VARIADIC": "SELECT concat(VARIADIC ARRAY['a'])",
    "values by number": "SELECT $1",
    "the filter's values by number": "SELECT name FROM customers WHERE tenant_id = $2",
    "the filter's own column": "SELECT tenant_id FROM customers",
    "a name that rewriting makes": "SELECT * FROM slipway_0",
    "a name that rewriting makes, beside WITH": "WITH x AS (SELECT 1 AS id) SELECT value FROM slipway_0",
    "a name of WITH out of its reach": "SELECT * FROM (WITH secrets AS (SELECT 1) TABLE secrets) x, secrets",
    "a name of WITH before it is there": "WITH a AS (SELECT * FROM secrets), secrets AS (SELECT 1) SELECT * FROM a",
    "a name of WITH in its own body": "WITH secrets AS (SELECT * FROM secrets) SELECT * FROM secrets",
    "LATERAL": "SELECT s.* FROM customers c, LATERAL (SELECT value FROM secrets) s",
    "a set operation": "SELECT name FROM customers UNION ALL SELECT value FROM secrets",
    "EXISTS": "SELECT 1 WHERE EXISTS (SELECT FROM secrets WHERE value LIKE 'CANARY%')",
    "ANY": "SELECT 1 WHERE 'CANARY-TABLE' = ANY (SELECT value FROM secrets)",
    "ARRAY": "SELECT ARRAY(SELECT value FROM secrets)",
    "in LIMIT": "SELECT 1 LIMIT (SELECT count(*) FROM secrets)",
    "in VALUES": "VALUES ((SELECT value FROM secrets))",
    "in CASE": "SELECT CASE WHEN true THEN (SELECT value FROM secrets) END",
    "in a window": "SELECT sum(1) OVER (ORDER BY (SELECT value FROM secrets))",
    "in JOIN's condition": "SELECT 1 FROM customers c JOIN orders o ON (SELECT true FROM secrets)",
    "in a comment's shadow": "SELECT/**/value/**/FROM/**/secrets--",
    "nesting without end": "SELECT " + "(SELECT " * 200 + "1" + ")" * 200,
}

ANSWERED = {
    "all rows": ("SELECT id, name, region FROM customers ORDER BY id", '[[1,"Ada","eu"],[2,"Ben","us"]]'),
    "OR true": ("SELECT count(*) FROM customers WHERE id = 3 OR true", "[[2]]"),
    "a row by its key": ("SELECT name FROM customers WHERE id = 3", "[]"),
    "a union with itself": ("SELECT max(id) FROM (SELECT id FROM customers UNION SELECT id FROM customers) x", "[[2]]"),
    "an error on a hidden row": ("SELECT count(*) FROM customers WHERE 1 / (3 - id) > 0", "[[1]]"),
    "a cast of a hidden row": ("SELECT count(*) FROM customers WHERE CASE WHEN id = 3 THEN name::int > 0 END", "[[0]]"),
    "an outer join": ("SELECT count(*) FROM orders o FULL JOIN customers c ON false", "[[5]]"),
    "a lateral one": (
        "SELECT x.name FROM orders o, LATERAL (SELECT name FROM customers c WHERE c.id = o.customer_id + 2) x",
        "[]",
    ),
    "WITH by a table's name": ("WITH customers AS (SELECT 7 AS id) SELECT * FROM customers", "[[7]]"),
    "WITH by an undeclared table's name": ("WITH secrets AS (SELECT 7 AS value) SELECT * FROM secrets", "[[7]]"),
    "an alias by an undeclared table's name": ("SELECT secrets.id FROM customers secrets ORDER BY 1", "[[1],[2]]"),
    "a masked column": (
        "SELECT email, card, phone FROM customers WHERE id = 1",
        '[["***@private.example","***4444","***"]]',
    ),
    "a search in a masked column": ("SELECT count(*) FROM customers WHERE card LIKE '4111%'", "[[0]]"),
    "a masked column as a whole": ("SELECT count(DISTINCT phone) FROM customers", "[[1]]"),
    "the database's own lower": ("SELECT lower(id::text) FROM customers WHERE id = 1", '[["1"]]'),
    "a string that looks like an end": ("SELECT name FROM customers WHERE name = '''; DROP TABLE customers; --'", "[]"),
    "an alias that quotes": ('SELECT "a"" FROM secrets".id FROM customers AS "a"" FROM secrets" WHERE id = 1', "[[1]]"),
}


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED.keys())
async def test_what_a_source_does_not_declare_is_refused(dev: Any, sql: str) -> None:
    with pytest.raises(SlipwayError) as refusal:
        await dev.query(sql)
    assert refusal.value.reason in _REASONS, refusal.value
    assert "CANARY" not in refusal.value.message.replace(sql, "")


@pytest.mark.parametrize(("sql", "rows"), ANSWERED.values(), ids=ANSWERED.keys())
async def test_what_a_query_reads_is_filtered_and_masked(dev: Any, sql: str, rows: str) -> None:
    answer = await dev.query(sql)
    assert answer.rows_json == rows


async def test_the_attempts_would_succeed_without_the_rewriting(source_database: Any) -> None:
    """The oracle's oracle: the role itself sees every canary."""
    connection = await asyncpg.connect(source_database.reader_url)
    try:
        for sql in (
            "SELECT value FROM secrets",
            "SELECT ssn FROM customers",
            "SELECT leak()",
            "SELECT value FROM slipway_0",
        ):
            assert "CANARY" in str(await connection.fetch(sql))
        assert await connection.fetchval("SELECT count(*) FROM customers") == 3
    finally:
        await connection.close()
