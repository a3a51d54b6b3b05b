"""Metrics of this service."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis.telemetry import registry

PUT_DOCUMENTS = Counter(
    "slipway_memory_documents_put",
    "Documents put, by outcome: accepted, or the reason of the refusal",
    ["outcome"],
    registry=registry,
)
INDEXED_VERSIONS = Counter(
    "slipway_memory_versions_indexed", "Document versions whose indexing ended", ["outcome"], registry=registry
)
EMBEDDED_CHUNKS = Counter("slipway_memory_chunks_embedded", "Chunks embedded", registry=registry)
PARSE_SECONDS = Histogram(
    "slipway_memory_parse_seconds",
    "Time to parse and cut a document",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=registry,
)
SEARCH_SECONDS = Histogram(
    "slipway_memory_search_seconds",
    "Time of a search by stage: embedding the query, querying the store",
    ["stage"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=registry,
)
EMPTY_SEARCHES = Counter("slipway_memory_searches_empty", "Searches that found no passage", registry=registry)
SWEPT = Counter(
    "slipway_memory_swept",
    "What sweepers did: versions sent again, files expired, objects deleted",
    ["what"],
    registry=registry,
)
OBJECT_SECONDS = Histogram(
    "slipway_memory_object_seconds",
    "Time of an operation of the object store, retries included, by outcome: ok, or the reason of the error",
    ["operation", "outcome"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    registry=registry,
)
VECTOR_SECONDS = Histogram(
    "slipway_memory_vector_seconds",
    "Time of an operation of an index outside the database, retries included, by outcome: ok or an error's reason",
    ["operation", "outcome"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=registry,
)
VECTOR_BACKLOG = Gauge(
    "slipway_memory_vector_backlog",
    "Live document versions that the index outside the database lacks, or has with an old access list",
    registry=registry,
)
VECTOR_OBJECTS_REFUSED = Counter(
    "slipway_memory_vector_objects_refused",
    "Objects of a batch that the index did not take; the batch is tried again",
    registry=registry,
)
