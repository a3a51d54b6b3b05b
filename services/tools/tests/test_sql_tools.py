"""Tools of kind sql: a fixed query of a data source, as whoever calls; arguments are values and nothing else."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis.errors import ErrorKind, SlipwayError

BY_CUSTOMER = "SELECT id, amount FROM orders WHERE customer = :customer AND (:least IS NULL OR amount >= :least)"
ARGUMENTS = {
    "type": "object",
    "required": ["customer"],
    "properties": {"customer": {"type": "string"}, "least": {"type": "integer"}},
}


async def declare(alice: Any, name: str, query: str = BY_CUSTOMER, schema: Any = None, **fields: Any) -> pb.Tool:
    sql = pb.SqlTool(source=fields.pop("source", "sales"), query=query, limit=fields.pop("limit", 0))
    text = json.dumps(schema or ARGUMENTS)
    request = pb.PutToolRequest(tool=name, description="Orders", input_schema_json=text, sql=sql, **fields)
    return (await alice.call("PutTool", request)).tool


async def test_a_query_is_a_tool_whose_rows_are_its_output(alice: Any, unique: Callable[[str], str]) -> None:
    tool = await declare(alice, unique("orders."))
    assert (tool.kind, tool.side_effect, tool.version) == ("sql", pb.SIDE_EFFECT_READ, 1)
    assert tool.untrusted_output
    answer = await alice.invoke(tool.tool, {"customer": "ada"})
    assert json.loads(answer.output_json) == {
        "columns": ["id", "amount"],
        "rows": [{"id": 1, "amount": 10}, {"id": 3, "amount": 30}],
        "truncated": False,
    }
    assert (answer.kind, answer.version, answer.output_tainted) == ("sql", 1, True)
    few = await alice.invoke(tool.tool, {"customer": "ada", "least": 20})
    assert [row["id"] for row in json.loads(few.output_json)["rows"]] == [3]


async def test_an_argument_is_a_value_whatever_it_says(alice: Any, unique: Callable[[str], str], memory: Any) -> None:
    tool = await declare(alice, unique("orders."))
    for text in ("' OR '1'='1", "ada'; DROP TABLE orders; --", ":least", "\u202eada"):
        answer = await alice.invoke(tool.tool, {"customer": text})
        assert json.loads(answer.output_json)["rows"] == []
    assert memory.sales.received[-1].sql == BY_CUSTOMER
    assert len(json.loads((await alice.invoke(tool.tool, {"customer": "ada"})).output_json)["rows"]) == 2


async def test_more_rows_than_the_limit_are_cut_and_said_so(alice: Any, unique: Callable[[str], str]) -> None:
    tool = await declare(alice, unique("orders."), "SELECT id FROM orders", {"type": "object"}, limit=2)
    output = json.loads((await alice.invoke(tool.tool)).output_json)
    assert (len(output["rows"]), output["truncated"]) == (2, True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"query": "SELECT id FROM nowhere"}, "sql.query"),
        ({"query": "SELECT id FROM orders WHERE id = :nobody_declared"}, "sql.query"),
        ({"source": "elsewhere"}, "sql.source"),
        ({"side_effect": pb.SIDE_EFFECT_WRITE}, "side_effect"),
    ],
    ids=["a table", "a value", "a source", "a write"],
)
async def test_what_could_never_be_performed_is_not_declared(
    alice: Any, unique: Callable[[str], str], changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(SlipwayError) as refused:
        await declare(alice, unique("orders."), **changes)
    assert refused.value.kind is ErrorKind.INVALID_ARGUMENT
    assert field in (refused.value.field, *(violation.field for violation in refused.value.violations))


async def test_failures_of_the_query_are_told_and_only_what_passes_is_tried_again(
    alice: Any, client: Any, unique: Callable[[str], str], memory: Any
) -> None:
    tool = await declare(alice, unique("orders."))
    memory.sales.busy = True
    try:
        busy = (await alice.invoke(tool.tool, {"customer": "ada"})).error
    finally:
        memory.sales.busy = False
    assert (busy.retryable, busy.message) == (True, "too many queries")
    denied = (await client(subject="bob").invoke(tool.tool, {"customer": "ada"})).error
    assert (denied.retryable, denied.message) == (False, "columns are denied")


async def test_rows_that_do_not_fit_and_columns_of_one_name_are_no_result(
    alice: Any, unique: Callable[[str], str]
) -> None:
    narrow = '{"type":"object","properties":{"rows":{"type":"array","maxItems":1}}}'
    tool = await declare(alice, unique("orders."), output_schema_json=narrow)
    wrong = (await alice.invoke(tool.tool, {"customer": "ada"})).error
    assert (wrong.code, wrong.retryable) == ("INVALID_RESULT", False)
    twice = await declare(alice, unique("orders."), "SELECT id, amount AS id FROM orders", {"type": "object"})
    doubled = (await alice.invoke(twice.tool)).error
    assert (doubled.code, doubled.message) == (
        "INVALID_RESULT",
        "Two columns are called id: give them names of their own with AS.",
    )
