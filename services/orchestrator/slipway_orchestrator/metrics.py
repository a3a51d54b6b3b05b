"""What the api measures."""

from prometheus_client import Counter
from slipway_chassis.telemetry import registry

STEERED = Counter("slipway_runs_steered", "Acts of people on runs that exist, by verb", ["verb"], registry=registry)
FORKED = Counter("slipway_runs_forked", "Forks of runs", registry=registry)
REPLAYED = Counter("slipway_runs_replayed", "Replays of runs, by outcome", ["outcome"], registry=registry)
SWITCHED = Counter("slipway_kill_switches", "Kill switches pulled and lifted", ["scope", "act"], registry=registry)
