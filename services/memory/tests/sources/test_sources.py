"""Declarations and queries of data sources: what is answered, masked, limited, refused and recorded."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import asyncpg
import httpx
import pytest
from slipway.memory.v1 import sources_pb2 as pb
from slipway_chassis.channel import invoke
from slipway_chassis.errors import SlipwayError


async def _refused(call: Any) -> SlipwayError:
    with pytest.raises(SlipwayError) as refusal:
        await call
    return refusal.value


async def test_values_come_back_typed(dev: Any) -> None:
    what = "id, total, at, note, total > 6 AS big, ARRAY[id, 1] AS pair"
    answer = await dev.query(f"SELECT {what} FROM orders ORDER BY id")
    assert [(column.name, column.type) for column in answer.columns][:3] == [
        ("id", "int4"),
        ("total", "numeric"),
        ("at", "timestamptz"),
    ]
    assert json.loads(answer.rows_json) == [
        [10, "19.99", "2026-01-31T12:00:00Z", {"gift": True}, True, [10, 1]],
        [11, "5", "2026-02-01T10:00:00Z", None, False, [11, 1]],
        [12, "100", "2026-03-01T00:00:00Z", [1], True, [12, 1]],
    ]
    assert answer.record.event_id


async def test_values_are_bound_and_never_become_sql(dev: Any) -> None:
    sql = "SELECT id FROM customers WHERE name = :name OR id = ANY(CAST(:ids AS int[])) ORDER BY id"
    quoting = {"name": "' OR 1=1 --", "ids": [2]}
    assert (await dev.query(sql, json.dumps(quoting))).rows_json == "[[2]]"
    when = "SELECT id FROM orders WHERE at >= :since AND total < :most"
    assert (await dev.query(when, '{"since": "2026-01-01T00:00:00Z", "most": "50.5"}')).row_count == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("{}", "needs a value for :id"),
        ('{"id": 1, "more": 2}', "has no :more"),
        ('{"id": "1 OR 1=1"}', "a whole number is needed"),
        ("[1]", "must be a JSON object"),
        ('{"id": NaN}', "must be a JSON object"),
    ],
)
async def test_a_value_that_does_not_fit_is_named(dev: Any, parameters: str, message: str) -> None:
    error = await _refused(dev.query("SELECT name FROM customers WHERE id = :id", parameters))
    assert (error.reason, message in error.message) == ("SQL_PARAMETERS_INVALID", True), error.message


@pytest.mark.parametrize(
    ("sql", "reason", "position"),
    [
        ("SELECT id\nFROM customers WHERE", "SQL_INVALID", None),
        ("SELECT 'é', nme FROM customers", "SQL_UNKNOWN_COLUMN", 13),
        ("SELECT id FROM customers WHERE id = :id AND nope = 1", "SQL_UNKNOWN_COLUMN", 45),
        ("SELECT 1 FROM nope", "SQL_UNKNOWN_TABLE", 15),
        ("SELECT 'é', pg_sleep(1)", "SQL_NOT_ALLOWED", 13),
        ("SELECT 'é' FROM WHERE", "SQL_INVALID", 17),
        ("SELECT name + 1 FROM customers", "SQL_INVALID", None),
    ],
)
async def test_wrong_sql_is_told_with_its_place(dev: Any, sql: str, reason: str, position: int | None) -> None:
    error = await _refused(dev.query(sql, '{"id": 1}' if ":id" in sql else ""))
    assert error.reason == reason, error.message
    if position:
        assert error.metadata["position"] == str(position)


async def test_a_denied_column_is_named_and_read_by_whom_its_declaration_names(dev: Any) -> None:
    error = await _refused(dev.query("SELECT name, salary FROM customers"))
    assert (error.reason, error.metadata["columns"]) == ("SOURCE_COLUMN_DENIED", "customers.salary")
    payroll = dev.as_("carol", "developer", "payroll")
    answer = await payroll.query("SELECT salary FROM customers ORDER BY id")
    assert answer.rows_json == '[["1000.50"],["2000"]]'
    assert list(answer.data_classes) == ["salary"]


async def test_masked_columns_are_said_and_plain_for_a_platform_admin(dev: Any) -> None:
    sql = "SELECT email FROM customers WHERE id = 1"
    masked = await dev.query(sql)
    assert (list(masked.masked_columns), list(masked.data_classes)) == (["customers.email"], [])
    plain = await dev.as_("root", "platform-admin").query(sql)
    assert (plain.rows_json, list(plain.masked_columns)) == ('[["ada@private.example"]]', [])


async def test_whoever_may_not_query_learns_nothing(dev: Any) -> None:
    for roles in ((), ("reviewer",)):
        error = await _refused(dev.as_("dave", *roles).query("SELECT 1 FROM nope"))
        assert error.reason == "POLICY_DENIED"
    error = await _refused(dev.as_("eve", "developer", tenant="globex").query("SELECT 1"))
    assert error.reason == "SOURCE_NOT_FOUND"


async def test_an_agent_queries_for_its_user_and_declares_nothing(dev: Any) -> None:
    agent = dev.as_("alice", "developer", act="helper@1")
    assert (await agent.query("SELECT count(*) FROM customers")).rows_json == "[[2]]"
    assert (await _refused(agent.put(dev.declaration()))).reason == "POLICY_DENIED"


async def test_a_result_is_cut_by_rows_and_by_bytes(dev: Any) -> None:
    rows = await dev.query("SELECT id FROM orders ORDER BY id", limit=2)
    assert (rows.rows_json, rows.truncated, rows.truncated_by) == ("[[10],[11]]", True, "rows")
    whole = await dev.query("SELECT id FROM orders ORDER BY id", limit=3)
    assert (whole.truncated, whole.truncated_by) == (False, "")
    many = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 400) SELECT i, md5('x') FROM n"
    cut = await dev.query(many, limit=500)
    assert cut.truncated_by == "bytes"
    assert len(cut.rows_json) <= 4096
    numbers = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 999)"
    wide = f"{numbers} SELECT string_agg(md5('x'), '') FROM n"
    assert (await _refused(dev.query(wide))).reason == "SOURCE_ROW_TOO_LARGE"


async def test_a_query_that_takes_too_long_is_ended_in_the_database(dev: Any, source_database: Any) -> None:
    endless = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    request = pb.QuerySourceRequest(source="crm", sql=endless)
    request.timeout.FromMilliseconds(300)
    assert (await _refused(invoke(dev.stub.QuerySource, request, token=dev.token, timeout=20))).reason == (
        "SOURCE_QUERY_TIMEOUT"
    )
    connection = await asyncpg.connect(source_database.admin_url)
    try:
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND application_name = 'slipway-memory'"
        assert await connection.fetchval(running) == 0
    finally:
        await connection.close()


async def test_a_query_that_the_planner_finds_too_costly_is_not_performed(dev: Any) -> None:
    names = ", ".join(f"orders o{number}" for number in range(9))
    error = await _refused(dev.query(f"SELECT count(*) FROM {names}"))
    assert error.reason == "SOURCE_QUERY_TOO_COSTLY"
    assert float(error.metadata["cost"]) > 1_000_000


async def test_a_tenant_has_so_many_queries_at_a_time(dev: Any) -> None:
    endless = "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    request = pb.QuerySourceRequest(source="crm", sql=endless)
    request.timeout.FromMilliseconds(1500)
    calls = [invoke(dev.stub.QuerySource, request, token=dev.token, timeout=20) for _ in range(5)]
    reasons = [error.reason for error in await asyncio.gather(*map(_refused, calls))]
    assert sorted(reasons) == ["SOURCE_BUSY"] * 3 + ["SOURCE_QUERY_TIMEOUT"] * 2


async def test_regions_that_are_demanded_must_hold_the_source(dev: Any) -> None:
    await dev.put(dev.declaration("regional", regions=["eu"]))
    answer = await dev.query("SELECT 1", source="regional", regions=["eu", "us"])
    assert answer.row_count == 1
    for source, regions in (("regional", ["us"]), ("regional", []), ("crm", ["eu"])):
        error = await _refused(dev.query("SELECT 1", source=source, regions=regions, regions_demanded=True))
        assert error.reason == "REGION_NOT_ALLOWED"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("secret:missing", "SOURCE_URL_UNAVAILABLE"),
        ("secret:theirs", "SOURCE_URL_UNAVAILABLE"),
        ("secret:broken", "SOURCE_URL_UNAVAILABLE"),
        ("secret:options", "SOURCE_URL_UNAVAILABLE"),
        ("secret:elsewhere", "SOURCE_HOST_NOT_ALLOWED"),
        ("file:missing", "SOURCE_URL_UNAVAILABLE"),
        ("file:../secrets.yaml", "INVALID_SOURCE"),
        ("postgresql://a:b@c/d", "INVALID_SOURCE"),
    ],
)
async def test_a_url_is_a_reference_to_an_allowed_place(dev: Any, url: str, reason: str) -> None:
    error = await _refused(dev.put(dev.declaration("other", url=url)))
    assert error.reason == reason
    assert "example.com" not in error.message


async def test_a_superuser_is_no_role_for_a_source(dev: Any) -> None:
    await dev.put(dev.declaration("root", url="secret:root"))
    assert (await _refused(dev.query("SELECT 1", source="root"))).reason == "SOURCE_ROLE_UNSAFE"


async def test_a_url_may_stand_in_a_file_of_the_tenant(dev: Any) -> None:
    await dev.put(dev.declaration("filed", url="file:crm"))
    assert (await dev.query("SELECT count(*) FROM customers", source="filed")).rows_json == "[[2]]"


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ({"row_filter": "tenant_id = :tenant) OR (SELECT true"}, "row_filter"),
        ({"row_filter": "id IN (SELECT 1)"}, "row_filter"),
        ({"row_filter": "id = :nobody"}, "row_filter"),
        ({"schema": "pg_catalog"}, "schema"),
        ({"columns": []}, "columns"),
        ({"columns": [pb.SourceColumn(name="a"), pb.SourceColumn(name="a")]}, "columns"),
        ({"columns": [pb.SourceColumn(name="a", mask="blur", data_class="x")]}, "mask"),
        ({"columns": [pb.SourceColumn(name="a", mask="redact")]}, "data_class"),
    ],
)
async def test_a_wrong_declaration_is_told_by_field(dev: Any, table: dict[str, Any], field: str) -> None:
    fields = {"name": "t", "columns": [pb.SourceColumn(name="a")], **table}
    error = await _refused(dev.put(dev.declaration("wrong", tables=[pb.SourceTable(**fields)])))
    assert error.reason == "INVALID_SOURCE"
    assert error.violations[0].field.startswith("tables[0]")
    assert field in error.violations[0].field


async def test_the_same_declaration_changes_nothing_and_another_is_a_version(dev: Any) -> None:
    first = await dev.put(dev.declaration("versions"))
    assert (first.created, first.source.version, first.source.owner) == (True, 1, "alice")
    again = await dev.put(dev.declaration("versions"))
    assert (again.created, again.source.version) == (False, 1)
    other = await dev.as_("bob", "developer").put(dev.declaration("versions", description="new"))
    assert (other.created, other.source.version, other.source.owner) == (False, 2, "alice")
    shown = await dev.get("versions")
    assert (shown.url, list(shown.data_classes)) == ("secret:crm", ["financial", "personal", "salary"])
    assert shown.tables[1].relation == "orders_v2"
    await invoke(dev.stub.DeleteSource, pb.DeleteSourceRequest(source="versions"), token=dev.token, timeout=20)
    assert (await _refused(dev.get("versions"))).reason == "SOURCE_NOT_FOUND"


async def test_sources_are_listed_page_by_page(dev: Any) -> None:
    for name in ("page-a", "page-b"):
        await dev.put(dev.declaration(name))
    names: list[str] = []
    token = ""
    while True:
        request = pb.ListSourcesRequest(page_size=1, page_token=token)
        page = await invoke(dev.stub.ListSources, request, token=dev.token, timeout=20)
        names += [source.source for source in page.sources]
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(names)
    assert {"crm", "page-a", "page-b"} <= set(names)


async def test_a_query_can_be_checked_without_being_performed(dev: Any) -> None:
    checked = await dev.query("SELECT salary FROM customers WHERE id = :id", '{"id": null}', validate_only=True)
    assert (checked.row_count, checked.record.event_id) == (0, "")
    error = await _refused(dev.query("SELECT ssn FROM customers", validate_only=True))
    assert error.reason == "SQL_UNKNOWN_COLUMN"


async def test_a_declaration_that_the_database_does_not_keep_is_told(dev: Any) -> None:
    await dev.put(dev.declaration("ghost", tables=[pb.SourceTable(name="ghost", columns=[pb.SourceColumn(name="a")])]))
    error = await _refused(dev.query("SELECT a FROM ghost", source="ghost"))
    assert error.reason == "SOURCE_QUERY_FAILED"
    assert "not as it declares" in error.message


async def test_each_query_is_recorded_with_what_it_read_and_no_value(
    dev: Any, governed_memory: Any, audit_of: Any
) -> None:
    async with audit_of(governed_memory) as events:
        answer = await dev.query("SELECT name, email FROM customers WHERE name = :name", '{"name": "Ada"}')
        await _refused(dev.query("SELECT salary FROM customers"))
        event = await events("source.query", lambda one: one["id"] == answer.record.event_id)
        refusal = await events("source.query", lambda one: one["data"]["outcome"] == "SOURCE_COLUMN_DENIED")
    data = event["data"]
    assert (data["tables"], data["columns"]) == (["customers"], ["customers.email", "customers.name"])
    assert (data["masked_columns"], data["row_count"], data["outcome"]) == (["customers.email"], 1, "ok")
    assert data["parameters"] == ["name"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", data["sql_digest"])
    assert refusal["data"]["columns"] == ["customers.salary"]
    assert "Ada" not in json.dumps([event, refusal])
    async with httpx.AsyncClient() as http:
        metrics = (await http.get(governed_memory.metrics)).text
    assert 'slipway_memory_source_queries_total{outcome="ok"}' in metrics
