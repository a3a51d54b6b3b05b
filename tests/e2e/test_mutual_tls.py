"""A whole stack whose services talk over mutual TLS only, each with a certificate of its own."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from slipway.audit.v1 import audit_pb2, audit_pb2_grpc
from slipway_chassis.channel import connect, invoke
from slipway_chassis.errors import RemoteError
from slipway_chassis.tls import CertificateFiles, ServiceTls
from slipway_testkit.certificates import CertificateAuthority, Issued
from slipway_testkit.stack import Stack

# Who calls whom: what the chart sets, too.
CALLERS = {
    "gateway": ("orchestrator", "memory"),
    "router": ("gateway", "orchestrator", "memory"),
    "orchestrator": ("gateway",),
    "memory": ("gateway", "orchestrator", "tools"),
    "tools": ("gateway", "orchestrator"),
    "audit": ("gateway",),
}
AGENT = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: through-all}
spec:
  type: workflow
  description: One step on each service.
  input: {type: object, required: [text], properties: {text: {type: string}}}
  output: {type: object}
  limits: {steps: 10, tokens: 5000, cost_usd: 0.05, wall_time: 1h, tool_errors: 3, repeats: 3, on_limit: fail}
  steps:
    - {id: found, retrieve: {collection: notes, query: "${input.text}", limit: 1}}
    - {id: said, model: {task: grounded-answer, prompt: "${input.text}", context: "${steps.found.output.passages}"}}
    - id: sum
      tool: {name: python, arguments: {code: "import json; json.dump({'sum': 40 + 2}, open('result.json', 'w'))"}}
  result: {said: "${steps.said.output.text}", sum: "${steps.sum.output}"}
"""


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Issued]:
    """A certificate for each service, all of one authority."""
    authority, folder = CertificateAuthority(), tmp_path_factory.mktemp("certificates")
    return {service: authority.issue(folder / service, "127.0.0.1", f"{service}.slipway") for service in CALLERS}


@pytest.fixture(scope="module")
def secured(issued: dict[str, Issued], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack; each service takes calls of those only that have business with it."""
    settings: dict[str, str] = {}
    for service, files in issued.items():
        prefix = f"SLIPWAY_{service.upper()}_"
        settings |= files.settings(prefix)
        settings[f"{prefix}TLS_CALLERS"] = ",".join(f"{caller}.slipway" for caller in CALLERS[service])
    stack = Stack(tmp_path_factory.mktemp("secured") / "data", settings=settings)
    try:
        yield stack.ready()
    finally:
        stack.stop()


def address(stack: Stack, service: str) -> str:
    """Where a service said that it takes gRPC."""
    lines = (stack.data_dir / "logs" / f"{service}.log").read_text().splitlines()
    events = (json.loads(line) for line in lines if line.startswith("{"))
    return next(f"127.0.0.1:{event['grpc']}" for event in events if event.get("event") == "service.started")


@pytest.mark.timeout(240)
def test_a_run_goes_through_all_services_and_its_evidence_comes_back(secured: Stack, tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    note.write_text("# Tea\n\nTea is served at four.\n")
    with secured.as_user("alice") as alice, secured.as_user("bob") as bob, secured.as_user("carol") as carol:
        alice.knowledge.put_collection("notes", description="Notes")
        alice.knowledge.put_document("notes", "tea", note)
        version = alice.agents.put("through-all", AGENT).version
        alice.agents.submit("through-all", version)
        bob.agents.approve("through-all", version)
        bob.agents.promote("through-all", version)
        run = alice.runs.start("through-all", {"text": "When is tea served?"}, wait=60)
        assert run.state == "SUCCEEDED", run
        assert run.output is not None
        assert run.output["said"]
        assert len(json.loads(carol.audit.evidence(run.run_id))["entries"]) > 5


@pytest.mark.timeout(240)
def test_readiness_links_and_logs_say_that_all_is_well(secured: Stack) -> None:
    answer = httpx.get(f"{secured.url}/readyz", timeout=10)
    assert (answer.status_code, answer.json().get("degraded", {})) == (200, {})
    logs = {path.name: path.read_text() for path in (secured.data_dir / "logs").glob("*.log")}
    assert set(logs) > {f"{service}.log" for service in CALLERS}
    for name, text in logs.items():
        assert "link.none" not in text, name
        assert "tls.failed" not in text, name


@pytest.mark.timeout(240)
def test_what_is_stolen_from_tools_opens_neither_audit_nor_anything_without_a_certificate(
    secured: Stack, issued: dict[str, Issued]
) -> None:
    async def checkpoint(service: ServiceTls | None) -> str:
        channel = connect(address(secured, "audit"), service)
        stub = audit_pb2_grpc.AuditServiceStub(channel)
        try:
            await invoke(stub.GetCheckpoint, audit_pb2.GetCheckpointRequest(), token="none", timeout=10)
        except RemoteError as error:
            return error.reason
        finally:
            await channel.close()
        return "OK"

    def of(service: str) -> ServiceTls:
        files = issued[service]
        return ServiceTls(CertificateFiles("TEST_TLS_", files.certificate, files.key, files.authority))

    async def plain(service: str) -> grpc.StatusCode:
        async with grpc.aio.insecure_channel(address(secured, service)) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)
        return refused.value.code()

    async def attempts() -> None:
        # The gateway may ask, and is asked for the caller's token next.
        assert await checkpoint(of("gateway")) == "INVALID_TOKEN"
        assert await checkpoint(of("tools")) == "PEER_NOT_ADMITTED"
        assert await checkpoint(None) == "UNAVAILABLE"
        assert {await plain(service) for service in CALLERS} == {grpc.StatusCode.UNAVAILABLE}

    asyncio.run(attempts())
