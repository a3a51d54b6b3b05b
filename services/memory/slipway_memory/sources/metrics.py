"""Metrics of data sources."""

from __future__ import annotations

from prometheus_client import Counter, Histogram
from slipway_chassis.telemetry import registry

SOURCE_QUERIES = Counter(
    "slipway_memory_source_queries",
    "Queries of data sources, by outcome: ok, or the reason of the refusal",
    ["outcome"],
    registry=registry,
)
SOURCE_QUERY_SECONDS = Histogram(
    "slipway_memory_source_query_seconds",
    "Time of a query of a data source, with its checks and its record",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=registry,
)
