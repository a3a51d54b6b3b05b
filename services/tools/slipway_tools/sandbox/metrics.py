"""Metrics of sandboxes and their egress."""

from prometheus_client import Counter, Gauge
from slipway_chassis.telemetry import registry

SANDBOXES_WARM = Gauge("slipway_tools_sandboxes_warm", "Sandboxes that wait for a program", registry=registry)
SANDBOX_SESSIONS = Gauge("slipway_tools_sandbox_sessions", "Sandboxes held by sessions of runs", registry=registry)
LIMITS_REACHED = Counter(
    "slipway_tools_sandbox_limits_reached_total",
    "Programs that failed at a limit, by its name",
    ["limit"],
    registry=registry,
)
EGRESS_REQUESTS = Counter(
    "slipway_tools_egress_requests_total",
    "Requests of sandboxed programs at the egress proxy; outcome is `allowed`, or why it was refused",
    ["outcome"],
    registry=registry,
)
EGRESS_CLOSED = Gauge(
    "slipway_tools_egress_closed",
    "1 when the file of egress rules is unreadable or invalid, so that nothing may go out",
    registry=registry,
)
