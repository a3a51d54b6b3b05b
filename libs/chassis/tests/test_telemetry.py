"""Traces to a collector, and what is left of them without one; log lines without secrets."""

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from pydantic import SecretStr
from slipway_chassis import telemetry
from slipway_chassis.caller import Caller, acting_as
from slipway_chassis.logs import configure_logging, get_logger
from slipway_testkit.certificates import CertificateAuthority

PROGRAM = Path(__file__).parent / "programs" / "traced.py"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_spans_reach_the_collector_as_one_trace_and_without_the_text_of_errors() -> None:
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), f"http://127.0.0.1:{port}", stdout=asyncio.subprocess.PIPE
    )
    trace_id = (await process.communicate())[0].decode()
    await server.stop(None)
    assert process.returncode == 0
    resource = collector.requests[0].resource_spans[0]
    names = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert names["service.name"] == "slipway-traced"
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert {span.trace_id.hex() for span in spans.values()} == {trace_id}
    assert spans["outer"].attributes[0].value.string_value == "acme"
    assert spans["inner"].status.code == 2
    assert b"4711" not in collector.requests[0].SerializeToString()


async def test_spans_reach_a_collector_over_tls_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    issued = CertificateAuthority().issue(tmp_path, "127.0.0.1")
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    pair = issued.key.read_bytes(), issued.certificate.read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        f"https://127.0.0.1:{port}",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(issued.authority)},
    )
    await process.communicate()
    await server.stop(None)
    assert len(collector.requests) == 1


async def test_without_a_collector_no_sdk_is_loaded() -> None:
    code = (
        "import sys, slipway_chassis.service as s; s.telemetry.setup('x');"
        "sys.exit(any(m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter')) for m in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


def test_trace_ids_are_new_per_trace_and_kept_within_one() -> None:
    assert telemetry.current_trace_id() == ""
    with telemetry.span("a"):
        first = telemetry.current_trace_id()
        with telemetry.span("b"):
            assert telemetry.current_trace_id() == first
    with telemetry.span("c"):
        assert telemetry.current_trace_id() not in ("", first)
    assert telemetry.current_trace_id() == ""


def test_a_trace_goes_on_behind_headers() -> None:
    with telemetry.span("sender"):
        sent, headers = telemetry.current_trace_id(), telemetry.inject()
    assert headers["traceparent"].split("-")[1] == sent
    for carrier in (headers, [*headers.items(), ("traceparent-bin", b"x")]):
        with telemetry.span("receiver", parent=telemetry.extract(carrier)):
            assert telemetry.current_trace_id() == sent


@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff-1-2-3"])
def test_damaged_headers_begin_a_new_trace(header: str) -> None:
    with telemetry.span("receiver", parent=telemetry.extract({"traceparent": header})):
        assert len(telemetry.current_trace_id()) == 32


@contextlib.contextmanager
def logging_to(lines: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Logging as a service has it, within the block; then `lines` holds what was logged."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure_logging("shop", "INFO")
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
        lines += [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_log_line_is_json_with_trace_and_tenant(
    capsys: pytest.CaptureFixture[str], caller: Callable[..., Caller]
) -> None:
    lines: list[dict[str, Any]] = []
    with logging_to(lines, capsys), telemetry.span("x"), acting_as(caller(), "bearer"):
        trace_id = telemetry.current_trace_id()
        get_logger("shop.orders").info("order.placed", order="o-1")
        get_logger("shop.orders").debug("order.details")
    (line,) = lines
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "order.placed",
        "order": "o-1",
        "component": "shop.orders",
        "service": "shop",
        "level": "info",
        "tenant": "acme",
        "trace_id": trace_id,
    }


def test_secrets_do_not_reach_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[dict[str, Any]] = []
    with logging_to(lines, capsys):
        log = get_logger("shop")
        log.info("a", settings={"key": SecretStr("s3cret")}, service_secret="s3cret", token="s3cret", api_key="s3cret")
        log.info("b", url="amqp://user:s3cret@host/v", header="Authorization: Bearer s3cret.s3cret")
        log.info("c", tokens=17, input_tokens=3)
        logging.getLogger("library").warning("connecting to redis://:s3cret@host failed")
        try:
            raise ValueError("postgresql://u:s3cret@host/db")
        except ValueError as error:
            log.error("d", exc_info=error)
    assert "s3cret" not in json.dumps(lines)
    assert lines[1]["url"] == "amqp://user:***@host/v"
    assert (lines[2]["tokens"], lines[2]["input_tokens"]) == (17, 3)
    assert lines[3]["event"] == "connecting to redis://:***@host failed"
    assert lines[3]["level"] == "warning"
    assert "ValueError" in lines[4]["exception"]
