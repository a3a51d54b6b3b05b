"""One trace per run, over every service and the bus; and nothing in traces and logs that does not belong there."""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fault_testing.desk import check_evidence, ended, until
from fault_testing.ledger import Ledger
from fault_testing.otlp import Collector, Span
from slipway_client import Client, Run
from slipway_client.errors import ApiError
from slipway_testkit.stack import Stack

AGENT, TOOL, COLLECTION = "trace-desk", "trace.book", "trace-handbook"

_DEFINITION = """
apiVersion: slipway.dev/v1
kind: Agent
metadata: {name: trace-desk}
spec:
  type: workflow
  description: Goes through every service.
  input:
    type: object
    required: [message, reference]
    properties: {message: {type: string, maxLength: 500}, reference: {type: string}}
  output: {type: object, required: [booking]}
  limits: {steps: 10, tokens: 10000, cost_usd: 0.10, wall_time: 1h, tool_errors: 9, repeats: 9, on_limit: fail}
  steps:
    - {id: passages, retrieve: {collection: trace-handbook, query: "${input.message}", limit: 1}}
    - id: answer
      model: {task: grounded-answer, prompt: "${input.message}", context: "${steps.passages.output.passages}"}
    - id: fails
      tool:
        name: python
        arguments: {code: "raise SystemExit(input())", stdin: "${input.message}"}
      on_error: continue
    - id: compute
      tool:
        name: python
        arguments:
          code: |
            import json
            from pathlib import Path
            Path("result.json").write_text(json.dumps({"length": len(input())}))
          stdin: "${input.message}"
    - id: book
      tool:
        name: trace.book
        arguments: {reference: "${input.reference}", amount: "${steps.compute.output.length}", of: "${input.message}"}
  result: {booking: "${steps.book.output.booking_id}", reply: "${steps.answer.output.text}"}
"""


_TELLING = {"orchestrator", "orchestrator-worker", "router", "memory", "tools"}
"""Services whose outboxes have something to tell of the run."""


@dataclass(frozen=True)
class Traced:
    """A run through every service, and the words that may show nowhere."""

    run: Run
    spans: list[Span]
    secrets: dict[str, str]


def mark(what: str) -> str:
    """A word that stands nowhere else."""
    return f"{what}{secrets.token_hex(8)}"


def declare(alice: Client, bob: Client, stack: Stack, ledger: Ledger, secret: str) -> None:
    """The tool with its secret by reference, and the agent in production."""
    with (stack.data_dir / "tools-secrets.yaml").open("a") as file:
        file.write(f"trace_authorization: {json.dumps('Bearer ' + secret)}\n")
    alice.tools.put(
        TOOL,
        {
            "description": "Books an amount.",
            "input_schema": {"type": "object"},
            "http": {
                "method": "POST",
                "url": f"http://{ledger.address}/bookings",
                "headers": {"Authorization": "secret:trace_authorization"},
            },
            "idempotent": True,
        },
    )
    version = alice.agents.put(AGENT, _DEFINITION).version
    alice.agents.submit(AGENT, version)
    bob.agents.approve(AGENT, version)
    bob.agents.promote(AGENT, version)


def refused(ask: Callable[[], object]) -> None:
    """A request that is refused: what was wrong with it may not be in the logs either."""
    with pytest.raises(ApiError) as problem:
        ask()
    assert 400 <= problem.value.status < 500


@pytest.fixture(scope="module")
def traced(stack: Stack, ledger: Ledger, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    words = {what: mark(what) for what in ("document", "message", "secret", "filename")}
    document: Path = tmp_path_factory.mktemp("trace") / "handbook.txt"
    document.write_text(f"A refund takes {words['document']} days. Whoever asks for a refund is answered in a week.")
    message = f"How many days does a refund take, {words['message']}?"
    with stack.as_user("alice") as alice, stack.as_user("bob") as bob, stack.as_user("carol") as carol:
        alice.knowledge.put_collection(COLLECTION)
        alice.knowledge.put_document(COLLECTION, "handbook.txt", document)
        until(lambda: alice.knowledge.get_document(COLLECTION, "handbook.txt").state == "READY", 60, "indexing")
        alice.files.upload(document, filename=f"{words['filename']}.txt")
        declare(alice, bob, stack, ledger, words["secret"])
        run_id = alice.runs.start(AGENT, {"message": message, "reference": "traced"}).run_id
        until(lambda: ended(alice, run_id), 90, "the run ends")
        run = alice.runs.get(run_id)
        assert run.state == "SUCCEEDED", run.error
        # The secret and the words were really there, so that finding them nowhere means something.
        assert ledger.authorization == f"Bearer {words['secret']}"
        assert words["message"] in ledger.bookings("traced")[0]["of"]
        assert words["document"] in alice.knowledge.search(COLLECTION, message)[0].text
        check_evidence(carol, run_id, len(list(alice.runs.events(run_id))))
        refused(lambda: alice.runs.start(AGENT, {"message": [words["message"]], "reference": "x"}))
        refused(lambda: alice.runs.start(AGENT, {"message": words["message"] * 100, "reference": "x"}))
        refused(lambda: alice.tools.invoke("python", {"cod": words["message"]}))
        refused(lambda: alice.agents.put("bad-desk", f"metadata: {{name: bad-desk}}\n{words['message']}: ["))
        refused(lambda: alice.models.chat({"model": "none", "messages": [{"role": "user", "content": message}]}))
    expected = {"slipway-gateway", "slipway-orchestrator", "slipway-orchestrator-worker", "slipway-router",
                "slipway-memory", "slipway-tools", "slipway-audit"}  # fmt: skip

    def complete() -> bool:
        spans = collector.spans(run.trace_id)
        known = {span.span_id for span in spans}
        if not all(span.parent_id in known for span in spans if span.parent_id):
            return False
        told = {
            lineage(spans, span)[1] for span in spans if span.service == "slipway-audit" and span.kind == "CONSUMER"
        }
        return expected <= {span.service for span in spans} and told >= _TELLING

    until(complete, 30, f"spans of all services come: {sorted({s.service for s in collector.spans(run.trace_id)})}")
    return Traced(run, collector.spans(run.trace_id), words)


def one(spans: list[Span], service: str, name: str) -> Span:
    """The first span of that name; a retry would make a second."""
    found = [span for span in spans if span.service == f"slipway-{service}" and span.name == name]
    assert found, f"{service} made no span {name!r}: {sorted((span.service, span.name) for span in spans)}"
    return found[0]


def lineage(spans: list[Span], span: Span) -> list[str]:
    """Services that a span descends from, its own first, each named once where it is entered."""
    by_id = {each.span_id: each for each in spans}
    services = [span.service.removeprefix("slipway-")]
    while span.parent_id:
        span = by_id[span.parent_id]
        service = span.service.removeprefix("slipway-")
        if services[-1] != service:
            services.append(service)
    return services


def test_a_run_is_one_trace_from_the_request_to_the_audit_log(traced: Traced) -> None:
    spans = traced.spans
    (root,) = (span for span in spans if not span.parent_id)
    assert (root.service, root.kind) == ("slipway-gateway", "SERVER")
    assert root.name == "POST /v1/agents/{agent}/runs"
    assert root.attributes["http.response.status_code"] == 202

    began = ["orchestrator", "gateway"]
    assert lineage(spans, one(spans, "orchestrator", "/slipway.runs.v1.RunsService/StartRun")) == began
    worked = ["orchestrator-worker", *began]
    assert lineage(spans, one(spans, "orchestrator-worker", f"invoke_agent {AGENT}")) == worked
    for step in ("passages", "answer", "fails", "compute", "book"):
        assert lineage(spans, one(spans, "orchestrator-worker", f"step {step}")) == worked
    assert lineage(spans, one(spans, "memory", "memory.search")) == ["memory", *worked]
    assert lineage(spans, one(spans, "tools", "execute_tool python")) == ["tools", *worked]
    assert lineage(spans, one(spans, "tools", f"execute_tool {TOOL}")) == ["tools", *worked]
    # Over the bus, out of the outbox of each service that has something to tell.
    consumed = [span for span in spans if span.service == "slipway-audit" and span.kind == "CONSUMER"]
    assert {span.name for span in consumed} == {"process audit.events"}
    assert {lineage(spans, span)[1] for span in consumed} >= _TELLING


def test_model_calls_and_tool_calls_carry_genai_attributes(traced: Traced) -> None:
    spans = traced.spans
    agent = one(spans, "orchestrator-worker", f"invoke_agent {AGENT}")
    assert agent.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert agent.attributes["gen_ai.agent.name"] == AGENT
    assert agent.attributes["slipway.run_id"] == traced.run.run_id
    worked = ["orchestrator-worker", "orchestrator", "gateway"]
    calls = {span.attributes["gen_ai.operation.name"]: span for span in spans
             if span.service == "slipway-router" and "gen_ai.operation.name" in span.attributes}  # fmt: skip
    assert lineage(spans, calls["chat"]) == ["router", *worked]
    assert lineage(spans, calls["embeddings"]) == ["router", "memory", *worked]
    for call in calls.values():
        assert call.attributes["gen_ai.provider.name"]
        assert call.attributes["gen_ai.request.model"]
        assert call.attributes["gen_ai.usage.input_tokens"] > 0
    chat = calls["chat"].attributes
    assert chat["gen_ai.response.model"]
    assert (chat["gen_ai.usage.input_tokens"], chat["gen_ai.usage.output_tokens"]) == (
        traced.run.usage.input_tokens,
        traced.run.usage.output_tokens,
    )
    tool = one(spans, "tools", "execute_tool python").attributes
    assert tool["gen_ai.operation.name"] == "execute_tool"
    assert tool["gen_ai.tool.name"] == "python"


def test_traces_and_logs_hold_no_document_no_prompt_and_no_secret(
    stack: Stack, collector: Collector, traced: Traced
) -> None:
    said = {str(file): file.read_text(errors="replace") for file in (stack.data_dir / "logs").iterdir()}
    said["the terminal"] = "\n".join(stack.lines)
    said["the traces"] = "\n".join(span.text for span in collector.spans())
    # The search finds what is there: the run is named in both.
    assert traced.run.run_id in said["the traces"]
    assert any(traced.run.run_id in text for place, text in said.items() if "worker-" in place)
    words = {
        **traced.secrets,
        **_leaves("secrets.json", json.loads((stack.data_dir / "secrets.json").read_text())),
    }
    found = [f"{what} in {place}" for place, text in said.items() for what, word in words.items() if word in text]
    assert not found
    # No token either: neither people's nor the internal ones.
    tokens = [place for place, text in said.items() if re.search(r"eyJ[\w-]{10,}\.[\w-]{10,}\.", text)]
    assert not tokens


@pytest.mark.parametrize(
    "name", ["gateway", "router", "orchestrator", "worker-1", "worker-2", "memory", "tools", "audit"]
)
def test_every_line_of_a_log_is_json_with_time_level_and_service(stack: Stack, traced: Traced, name: str) -> None:
    lines = (stack.data_dir / "logs" / f"{name}.log").read_text().splitlines()
    assert lines
    for line in lines:
        told = json.loads(line)
        assert {"timestamp", "level", "event", "service"} <= told.keys(), line


def _leaves(name: str, value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {path: word for key, inner in value.items() for path, word in _leaves(f"{name}/{key}", inner).items()}
    return {name: str(value)}
