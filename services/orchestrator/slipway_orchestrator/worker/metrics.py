"""What a worker measures."""

from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis.telemetry import registry

RUNS = Gauge("slipway_runs", "Runs that have not ended, by state", ["state"], registry=registry)
CLAIMABLE = Gauge(
    "slipway_runs_claimable",
    "Runs that a free worker could take now, by worker pool",
    ["worker_pool"],
    registry=registry,
)
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
SWEEP_SECONDS = Histogram(
    "slipway_sweep_seconds",
    "Seconds that a look at runs whose time has come took",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
    registry=registry,
)
LEASES_LOST = Counter("slipway_leases_lost", "Leases that another worker took over", registry=registry)
LEASES_RECOVERED = Counter(
    "slipway_leases_recovered", "Runs taken over from a worker that fell silent", registry=registry
)
PAUSED = Counter("slipway_runs_paused", "Runs that were paused, by why", ["code"], registry=registry)
LOOPS = Counter("slipway_loops_detected", "Runs that went round in circles, by how", ["pattern"], registry=registry)
ASKED = Counter(
    "slipway_approvals_requested",
    "Approvals that runs asked for: at gates, or for steps that failed",
    ["why"],
    registry=registry,
)
ACTIVE = Gauge("slipway_runs_active", "Runs that this worker advances now", registry=registry)
FIRED = Counter(
    "slipway_schedules_fired", "Due times of schedules, by what came of them", ["outcome"], registry=registry
)
FIRED_LATE = Histogram(
    "slipway_schedule_lateness_seconds",
    "Seconds from a due time until it was dealt with",
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 3600),
    registry=registry,
)
