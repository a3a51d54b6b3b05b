"""What retention measures."""

from prometheus_client import Counter
from slipway_chassis.telemetry import registry

EXPIRED = Counter("slipway_runs_expired", "Finished runs deleted when their time was over", registry=registry)
MONTHS_DROPPED = Counter("slipway_journal_months_dropped", "Partitions of journals dropped", registry=registry)
