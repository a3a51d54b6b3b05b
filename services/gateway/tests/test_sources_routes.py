"""Data sources over HTTP: what the memory service is asked, and how its answers look."""

from typing import Any

from slipway.memory.v1 import sources_pb2 as pb
from slipway.tools.v1 import tools_pb2
from slipway_chassis.errors import InvalidArgument, PermissionDenied

DECLARED = {
    "description": "Customers",
    "url": "secret:crm",
    "regions": ["eu"],
    "tables": [
        {
            "name": "customers",
            "schema": "crm",
            "row_filter": "tenant_id = :tenant",
            "columns": [{"name": "id"}, {"name": "email", "data_class": "personal", "mask": "email_domain"}],
        }
    ],
}
TABLE = pb.SourceTable(
    name="customers",
    schema="crm",
    row_filter="tenant_id = :tenant",
    columns=[
        pb.SourceColumn(name="id"),
        pb.SourceColumn(name="email", data_class="personal", mask="email_domain"),
    ],
)


def test_a_declared_source_is_handed_on_and_shown_without_its_url(alice: Any, services: Any) -> None:
    kept = pb.Source(source="crm", url="secret:crm", regions=["eu"], tables=[TABLE], owner="alice", version=1)
    services.on("PutSource", lambda call: pb.PutSourceResponse(source=kept, created=True))
    answer = alice.put("/v1/sources/crm", json=DECLARED, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 201
    assert services.last("PutSource").request == pb.PutSourceRequest(
        source="crm", description="Customers", url="secret:crm", regions=["eu"], tables=[TABLE], request_id="k1"
    )
    shown = answer.json()
    assert (shown["url"], shown["owner"], shown["version"]) == ("secret:crm", "alice", 1)
    assert shown["tables"][0]["schema"] == "crm"
    assert [column["mask"] for column in shown["tables"][0]["columns"]] == [None, "email_domain"]


def test_a_field_that_a_declaration_does_not_have_is_refused(alice: Any) -> None:
    table = {"name": "t", "columns": [{"name": "a", "masked": True}]}
    answer = alice.put("/v1/sources/crm", json={"url": "secret:crm", "tables": [table]})
    assert answer.status_code == 422
    assert "masked" in answer.text


def test_a_query_answers_with_rows_and_what_was_masked(alice: Any, services: Any) -> None:
    services.on(
        "QuerySource",
        lambda call: pb.QuerySourceResponse(
            columns=[pb.ResultColumn(name="id", type="int4"), pb.ResultColumn(name="email", type="text")],
            rows_json='[[1,"***@a.example"]]',
            row_count=1,
            truncated=True,
            truncated_by="rows",
            masked_columns=["customers.email"],
        ),
    )
    body = {"sql": "SELECT id, email FROM customers WHERE id = :id", "parameters": {"id": 1}, "limit": 1, "regions": []}
    shown = alice.post("/v1/sources/crm/query", json=body).json()
    asked = services.last("QuerySource").request
    assert (asked.sql, asked.parameters_json, asked.limit) == (body["sql"], '{"id":1}', 1)
    assert asked.regions_demanded
    assert shown["rows"] == [[1, "***@a.example"]]
    assert (shown["row_count"], shown["truncated"], shown["truncated_by"]) == (1, True, "rows")
    assert shown["masked_columns"] == ["customers.email"]


def test_a_refused_query_says_where_and_which_columns(alice: Any, services: Any) -> None:
    class SqlInvalid(InvalidArgument):
        reason = "SQL_INVALID"

    class ColumnDenied(PermissionDenied):
        reason = "SOURCE_COLUMN_DENIED"

    def refuse(call: Any) -> None:
        if "salary" in call.request.sql:
            raise ColumnDenied("policy does not let you read it", metadata={"columns": "customers.salary"})
        raise SqlInvalid("syntax error", field="sql", metadata={"position": "8"})

    services.on("QuerySource", refuse)
    wrong = alice.post("/v1/sources/crm/query", json={"sql": "SELECT FROM WHERE"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "SQL_INVALID")
    assert '"8"' in wrong.text
    denied = alice.post("/v1/sources/crm/query", json={"sql": "SELECT salary FROM customers"})
    assert (denied.status_code, denied.json()["code"]) == (403, "SOURCE_COLUMN_DENIED")
    assert "customers.salary" in denied.text


def test_a_query_is_declared_as_a_tool(alice: Any, services: Any) -> None:
    made = tools_pb2.SqlTool(source="crm", query="SELECT 1", limit=5, timeout={"seconds": 2})
    tool = tools_pb2.Tool(tool="crm.one", kind="sql", input_schema_json="{}", sql=made)
    services.on("PutTool", lambda call: tools_pb2.PutToolResponse(tool=tool, created=True))
    sql = {"source": "crm", "query": "SELECT 1", "limit": 5, "timeout_seconds": 2}
    answer = alice.put("/v1/tools/crm.one", json={"description": "One", "input_schema": {}, "sql": sql})
    assert services.last("PutTool").request.sql == made
    assert answer.json()["sql"] == sql
