"""Counts and durations of gRPC calls, by method and status code."""

from prometheus_client import Counter, Histogram

from slipway_chassis.telemetry import registry

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class RpcMetrics:
    """One side's metrics, ``slipway_grpc_<side>_requests_total`` and ``…_duration_seconds``."""

    def __init__(self, side: str) -> None:
        self._requests = Counter(
            f"slipway_grpc_{side}_requests", f"gRPC calls ({side} side)", ["method", "code"], registry=registry
        )
        self._durations = Histogram(
            f"slipway_grpc_{side}_duration_seconds",
            f"Duration of gRPC calls ({side} side)",
            ["method"],
            buckets=_BUCKETS,
            registry=registry,
        )
        # Looking a labelled metric up costs more than counting.
        self._counters: dict[tuple[str, str], Counter] = {}
        self._timers: dict[str, Histogram] = {}

    def observe(self, method: str, code: str, seconds: float) -> None:
        """Count one finished call."""
        counter = self._counters.get((method, code))
        if counter is None:
            counter = self._counters[method, code] = self._requests.labels(method, code)
        timer = self._timers.get(method)
        if timer is None:
            timer = self._timers[method] = self._durations.labels(method)
        counter.inc()
        timer.observe(seconds)


SERVER = RpcMetrics("server")
CLIENT = RpcMetrics("client")
