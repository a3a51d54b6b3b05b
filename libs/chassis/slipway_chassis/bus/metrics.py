"""What the bus counts; topics and groups are few and named in code, so they may be labels."""

from prometheus_client import Counter

from slipway_chassis import telemetry

handled = Counter(
    "slipway_bus_deliveries",
    "Deliveries that ended, by outcome: acknowledged, retried, dead",
    ["topic", "group", "outcome"],
    registry=telemetry.registry,
)
