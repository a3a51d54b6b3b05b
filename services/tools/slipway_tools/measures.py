"""Metrics of the tools service."""

from prometheus_client import Gauge, Histogram
from slipway_chassis.telemetry import registry

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

CALLS = Histogram(
    "slipway_tools_call_seconds",
    "Calls of tools; outcome is `ok`, the tool's error code, `uncertain`, or `refused` before anything was done",
    ["kind", "outcome"],
    buckets=_SECONDS,
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
