"""Metrics of the tools service."""

from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis.telemetry import registry

from slipway_tools.tool import Declaration

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

CALLS = Histogram(
    "slipway_tools_call_seconds",
    "Calls of tools; outcome is `ok`, the tool's error code, `uncertain`, or `refused` before anything was done",
    ["kind", "outcome"],
    buckets=_SECONDS,
    registry=registry,
)
CALLS_BY_TOOL = Counter(
    "slipway_tools_calls",
    "Calls by tool; beyond the first thousand names the tool is `other`",
    ["tool", "kind", "outcome"],
    registry=registry,
)
SANDBOX_START = Histogram(
    "slipway_tools_sandbox_start_seconds",
    "From the call of a program to its interpreter being ready in a fresh sandbox",
    buckets=_SECONDS[:9],
    registry=registry,
)
SANDBOXES_BUSY = Gauge("slipway_tools_sandboxes_busy", "Sandboxes that run a program", registry=registry)
SANDBOXES_DOWNGRADED = Gauge(
    "slipway_tools_sandbox_downgraded",
    "1 when no control group bounds memory of a sandbox as a whole",
    registry=registry,
)

_NAMES_LIMIT = 1000
_names: set[str] = set()


def observe_call(declaration: Declaration, outcome: str, seconds: float) -> None:
    """Count a call and its time."""
    name = declaration.name
    if name not in _names:
        if len(_names) < _NAMES_LIMIT:
            _names.add(name)
        else:
            name = "other"
    CALLS.labels(declaration.kind, outcome).observe(seconds)
    CALLS_BY_TOOL.labels(name, declaration.kind, outcome).inc()
