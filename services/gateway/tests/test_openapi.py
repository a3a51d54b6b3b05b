"""The OpenAPI document: complete, and kept to by the routes (fuzzed with schemathesis)."""

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from gateway_testing.services import METHODS
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from slipway.audit.v1 import audit_pb2
from slipway.router.v1 import router_pb2

PUBLIC = {"/livez", "/readyz"}


@pytest.fixture(scope="module")
def document(gateway: Any) -> dict[str, Any]:
    return httpx.get(f"{gateway.url}/openapi.json", timeout=60).json()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_every_route_of_the_skeleton_is_there(document: dict[str, Any]) -> None:
    documented = {f"{method} {path}" for method, path, _ in operations(document)}
    assert documented >= {
        "POST /v1/chat/completions",
        "POST /v1/embeddings",
        "GET /v1/models",
        "POST /v1/api-keys",
        "GET /v1/api-keys",
        "DELETE /v1/api-keys/{key_id}",
        "GET /v1/whoami",
        "PUT /v1/agents/{agent}",
        "GET /v1/agents",
        "GET /v1/agents/{agent}",
        "GET /v1/agents/{agent}/versions",
        "GET /v1/agents/{agent}/versions/{version}",
        "POST /v1/agents/{agent}/versions/{version}/submit",
        "POST /v1/agents/{agent}/versions/{version}/approve",
        "POST /v1/agents/{agent}/versions/{version}/reject",
        "POST /v1/agents/{agent}/versions/{version}/promote",
        "POST /v1/agents/{agent}/rollback",
        "POST /v1/agents/{agent}/suspend",
        "POST /v1/agents/{agent}/resume",
        "GET /v1/suspension",
        "PUT /v1/suspension",
        "PUT /v1/agents/{agent}/schedules/{schedule_name}",
        "GET /v1/agents/{agent}/schedules",
        "GET /v1/agents/{agent}/schedules/{schedule_name}",
        "DELETE /v1/agents/{agent}/schedules/{schedule_name}",
        "POST /v1/agents/{agent}/runs",
        "GET /v1/runs",
        "GET /v1/runs/{run_id}",
        "POST /v1/runs/cancel",
        "POST /v1/runs/{run_id}/cancel",
        "POST /v1/runs/{run_id}/pause",
        "POST /v1/runs/{run_id}/resume",
        "POST /v1/runs/{run_id}/signal",
        "POST /v1/runs/{run_id}/limits",
        "POST /v1/runs/{run_id}/fork",
        "POST /v1/runs/{run_id}/replay",
        "GET /v1/runs/{run_id}/events",
        "GET /v1/runs/{run_id}/evidence",
        "GET /v1/approvals",
        "GET /v1/approvals/{approval_id}",
        "POST /v1/approvals/{approval_id}/decide",
        "POST /v1/sessions",
        "GET /v1/sessions/{session_id}",
        "GET /v1/sessions/{session_id}/messages",
        "DELETE /v1/sessions/{session_id}",
        "PUT /v1/collections/{collection}",
        "GET /v1/collections",
        "PUT /v1/collections/{collection}/documents/{document}",
        "GET /v1/collections/{collection}/documents",
        "GET /v1/collections/{collection}/documents/{document}",
        "DELETE /v1/collections/{collection}/documents/{document}",
        "POST /v1/collections/{collection}/search",
        "POST /v1/files",
        "GET /v1/files/{file_id}",
        "GET /v1/files/{file_id}/content",
        "DELETE /v1/files/{file_id}",
        "GET /v1/tools",
        "GET /v1/tools/{tool}",
        "PUT /v1/tools/{tool}",
        "POST /v1/tools/{tool}/invoke",
        "GET /v1/tools/{tool}/versions",
        "GET /v1/tools/{tool}/policy",
        "POST /v1/tools/import",
        "PUT /v1/mcp-servers/{server}",
        "GET /v1/mcp-servers",
        "GET /v1/mcp-servers/{server}",
        "DELETE /v1/mcp-servers/{server}",
        "GET /v1/mcp-servers/{server}/tools",
        "POST /v1/mcp-servers/{server}/approve",
        "GET /v1/usage",
        "GET /v1/usage/{request_id}",
        "GET /v1/audit/events",
        "GET /v1/audit/checkpoint",
        "GET /v1/audit/inclusion",
        "GET /v1/audit/consistency",
        "GET /livez",
        "GET /readyz",
    }


def test_every_route_says_what_it_is_and_what_it_answers(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        name = f"{method} {path}"
        assert operation.get("summary"), name
        assert operation.get("description"), name
        answers = operation["responses"]
        good = [answers[status] for status in answers if status.startswith("2")]
        assert good, name
        assert all(answer.get("content") for answer in good if answer is not answers.get("204")), name
        if path in PUBLIC:
            continue
        assert operation["security"] == [{"bearer": []}], name
        for status in ("401", "403", "404", "422", "429", "503"):
            assert answers[status]["content"]["application/problem+json"]["schema"]["$ref"].endswith("/Problem"), name


def test_the_reference_shows_every_route_and_needs_no_other_server(document: dict[str, Any], gateway: Any) -> None:
    page = httpx.get(f"{gateway.url}/docs")
    assert page.status_code == 200
    for _, path, operation in operations(document):
        assert path in page.text
        assert html.escape(operation["summary"]) in page.text
    assert "<script" not in page.text
    assert "src=" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    links = re.findall(r'href="#([^"]+)"', page.text)
    assert links
    assert all(f'id="{link}"' in page.text for link in links)
    assert "/docs" in httpx.get(f"{gateway.url}/").text


def test_creating_posts_take_an_idempotency_key(document: dict[str, Any]) -> None:
    for path in ("/v1/api-keys", "/v1/agents/{agent}/runs", "/v1/sessions", "/v1/files"):
        names = [parameter["name"] for parameter in document["paths"][path]["post"]["parameters"]]
        assert "Idempotency-Key" in names, path


def test_no_reference_of_the_document_leads_nowhere(document: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    for reference in references(document):
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


@pytest.fixture
def empty_answers(services: Any) -> None:
    """Every service answers with an empty message: what is fuzzed is the gateway."""
    for name, method in METHODS.items():
        empty = GetMessageClass(method.output_type)

        def reply(call: Any, make: Callable[[], Any] = empty, streaming: bool = method.server_streaming) -> Any:
            if not hasattr(call.request, "DESCRIPTOR"):
                for _ in call.request:
                    pass
            return iter([make()]) if streaming else make()

        services.on(name.rpartition("/")[2], reply)
    services.on("ExportRunEvidence", lambda call: iter([audit_pb2.ExportRunEvidenceResponse(data=b"{}")]))
    whole = router_pb2.CompareRoutesResponse(summary=router_pb2.ComparisonSummary())
    services.on("CompareRoutes", lambda call: iter([whole]))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
def test_whatever_is_sent_the_gateway_keeps_to_its_document(
    document: dict[str, Any], gateway: Any, issuer: Any, empty_answers: None, kind: str
) -> None:
    """Requests that fit the document and requests that do not: no crash, documented statuses, types and schemas."""
    # Not above: each process of a test session would import it, for more than a second.
    import schemathesis
    from schemathesis.specs.openapi import checks

    mode = schemathesis.GenerationMode[kind]
    conformance = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_dict(document)
    headers = {"Authorization": f"Bearer {issuer.token('dave')}"}
    tested = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=10,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.headers = {name: value for name, value in case.headers.items() if name.lower() != "authorization"}
            case.call_and_validate(base_url=gateway.url, headers=headers, checks=conformance)

        try:
            check()
        except Unsatisfiable:
            # A route without parameters and body cannot be asked wrongly.
            assert kind == "NEGATIVE"
            continue
        tested += 1
    assert tested > (50 if kind == "POSITIVE" else 40)
