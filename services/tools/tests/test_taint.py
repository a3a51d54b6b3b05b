"""What came from outside: how it is marked, and what policy may demand before it is acted on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slipway.tools.v1 import tools_pb2 as pb
from slipway_chassis import jcs
from slipway_chassis.errors import ErrorKind, SlipwayError


async def declare(alice: Any, target: Any, name: str, method: str, **fields: Any) -> pb.Tool:
    put = await alice.put(name, f"{target.url}/{name}", http={"method": method}, **fields)
    return put.tool


def approval(arguments: dict[str, Any]) -> pb.ApprovalProof:
    return pb.ApprovalProof(approval_id="apr_1", approver="bob", arguments_digest=jcs.digest(arguments))


@pytest.mark.parametrize(
    ("method", "effect"),
    [
        ("GET", pb.SIDE_EFFECT_READ),
        ("POST", pb.SIDE_EFFECT_WRITE),
        ("PUT", pb.SIDE_EFFECT_WRITE),
        ("PATCH", pb.SIDE_EFFECT_WRITE),
        ("DELETE", pb.SIDE_EFFECT_DESTRUCTIVE),
    ],
)
async def test_what_a_tool_does_to_the_world_goes_by_its_method_unless_it_is_declared(
    alice: Any, target: Any, unique: Any, method: str, effect: int
) -> None:
    name = unique("effect.")
    assert (await declare(alice, target, name, method)).side_effect == effect
    for declared in (pb.SIDE_EFFECT_READ, pb.SIDE_EFFECT_WRITE, pb.SIDE_EFFECT_DESTRUCTIVE):
        assert (await declare(alice, target, name, method, side_effect=declared)).side_effect == declared


async def test_what_a_tool_of_the_web_answers_taints_and_what_the_platform_vouches_for_does_not(
    alice: Any, target: Any, unique: Any
) -> None:
    web, own = unique("web."), unique("own.")
    await declare(alice, target, web, "POST")
    await declare(alice, target, own, "POST", trusted_output=True)
    assert (await alice.invoke(web)).output_tainted
    assert not (await alice.invoke(own)).output_tainted
    assert (await alice.invoke(own, arguments_tainted=True)).output_tainted
    assert not (await alice.python("print()")).output_tainted
    tainted = await alice.invoke("python", {"code": "print()"}, arguments_tainted=True)
    assert tainted.output_tainted


async def test_what_a_session_holds_is_as_tainted_as_what_was_put_into_it(alice: Any, unique: Any) -> None:
    work, other = unique("work-"), unique("other-")

    async def call(code: str, session: str, *, tainted: bool = False) -> bool:
        answer = await alice.invoke("python", {"code": code, "session": session}, arguments_tainted=tainted)
        assert not answer.HasField("error"), answer
        return answer.output_tainted

    assert not await call("open('a', 'w').write('own')", work)
    assert await call("open('b', 'w').write('from the web')", work, tainted=True)
    assert await call("print(open('b').read())", work)
    assert not await call("print()", other)
    assert not (await alice.python("print()")).output_tainted


async def test_tainted_arguments_destroy_nothing_without_an_approval(alice: Any, target: Any, unique: Any) -> None:
    name, arguments = unique("drop."), {"table": "orders"}
    await declare(alice, target, name, "DELETE")
    described = await alice.call("DescribeTool", pb.DescribeToolRequest(tool=name, arguments_tainted=True))
    assert (described.allowed, described.approval_required) == (True, True)
    assert list(described.policies) == ["tainted-arguments-need-approval"]
    plain = await alice.call("DescribeTool", pb.DescribeToolRequest(tool=name))
    assert (plain.allowed, plain.approval_required, list(plain.policies)) == (True, False, [])

    with pytest.raises(SlipwayError) as refused:
        await alice.invoke(name, arguments, arguments_tainted=True)
    error = refused.value
    assert (error.kind, error.reason) == (ErrorKind.FAILED_PRECONDITION, "APPROVAL_REQUIRED")
    assert error.metadata["policies"] == "tainted-arguments-need-approval"
    assert target.to(f"/{name}") == []
    with pytest.raises(SlipwayError) as refused:
        await alice.invoke(name, arguments, arguments_tainted=True, approval=approval({"table": "other"}))
    assert refused.value.reason == "APPROVAL_MISMATCH"
    assert target.to(f"/{name}") == []

    assert (await alice.invoke(name, arguments, arguments_tainted=True, approval=approval(arguments))).error.code == ""
    assert (await alice.invoke(name, arguments)).error.code == ""
    assert len(target.to(f"/{name}")) == 2


async def test_a_policy_may_ask_the_same_before_every_write_that_leaves_the_platform(
    start_tools: Callable[..., Any], client: Callable[..., Any], target: Any, policy_dir: Path, tmp_path: Path
) -> None:
    policies = tmp_path / "policies"
    shutil.copytree(policy_dir, policies)
    guards = policies / "10-guards.cedar"
    strict = guards.read_text().replace(
        'resource.side_effect == "destructive" };', 'resource.side_effect != "read" && resource.egress };'
    )
    assert strict != guards.read_text()
    guards.write_text(strict)
    alice = client(target=start_tools(POLICY_DIR=str(policies)).target)
    await declare(alice, target, "post", "POST")
    await declare(alice, target, "read", "GET")
    code = "def main():\n    return 1\n"
    request = pb.PutToolRequest(
        tool="inside",
        input_schema_json='{"type":"object"}',
        python=pb.PythonTool(code=code),
        side_effect=pb.SIDE_EFFECT_WRITE,
    )
    await alice.call("PutTool", request)
    needs = {}
    for tool in ("post", "read", "inside"):
        described = await alice.call("DescribeTool", pb.DescribeToolRequest(tool=tool, arguments_tainted=True))
        needs[tool] = described.approval_required
    assert needs == {"post": True, "read": False, "inside": False}


async def test_who_may_not_call_a_tool_may_not_with_an_approval_either(
    alice: Any, client: Callable[..., Any], target: Any, unique: Any
) -> None:
    name = unique("drop.")
    await declare(alice, target, name, "DELETE")
    erin = client(subject="erin", roles=["reviewer"])
    described = await erin.call("DescribeTool", pb.DescribeToolRequest(tool=name, arguments_tainted=True))
    assert (described.allowed, described.approval_required) == (False, False)
    with pytest.raises(SlipwayError) as refused:
        await erin.invoke(name, {}, arguments_tainted=True, approval=approval({}))
    assert refused.value.reason == "POLICY_DENIED"
