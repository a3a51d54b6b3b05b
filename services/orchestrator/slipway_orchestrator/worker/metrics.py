"""What a worker measures."""

from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis.telemetry import registry

RUNS = Gauge("slipway_runs", "Runs that have not ended, by state", ["state"], registry=registry)
ENDED = Counter("slipway_runs_ended", "Runs that ended", ["outcome"], registry=registry)
STEPS = Counter("slipway_steps", "Attempts at steps that ended", ["type", "outcome"], registry=registry)
STEP_SECONDS = Histogram(
    "slipway_step_seconds",
    "Seconds that an attempt took",
    ["type"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
    registry=registry,
)
CLAIM_SECONDS = Histogram(
    "slipway_claim_seconds",
    "Seconds from the time a run is due until a worker has it",
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30),
    registry=registry,
)
LEASES_LOST = Counter("slipway_leases_lost", "Leases that another worker took over", registry=registry)
LEASES_RECOVERED = Counter(
    "slipway_leases_recovered", "Runs taken over from a worker that fell silent", registry=registry
)
ACTIVE = Gauge("slipway_runs_active", "Runs that this worker advances now", registry=registry)
