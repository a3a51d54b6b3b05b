"""The router's metrics: OpenTelemetry's GenAI names, and what fallback and cooldown did."""

from prometheus_client import Counter, Gauge, Histogram
from slipway_chassis.telemetry import registry

token_usage = Histogram(
    "gen_ai_client_token_usage",
    "Tokens of a call, by class",
    ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"],
    buckets=(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576),
    registry=registry,
)
operation_duration = Histogram(
    "gen_ai_client_operation_duration_seconds",
    "Duration of a call, all attempts together",
    ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"],
    buckets=(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    registry=registry,
)
time_to_first_token = Histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "From the start of a streamed call to its first delta",
    ["gen_ai_provider_name", "gen_ai_request_model"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    registry=registry,
)
cost_dollars = Counter(
    "slipway_router_cost_dollars", "Cost of calls in US dollars", ["gen_ai_request_model"], registry=registry
)
attempts = Counter("slipway_router_attempts", "Attempts at models, by outcome", ["model", "outcome"], registry=registry)
fallbacks = Counter(
    "slipway_router_fallbacks", "Calls that went on to another model", ["failed_model", "reason"], registry=registry
)
attempt_duration = Histogram(
    "slipway_router_attempt_duration_seconds",
    "Duration of an attempt at a model: outliers show here",
    ["model", "outcome"],
    buckets=(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    registry=registry,
)
hedges = Counter(
    "slipway_router_hedges", "Calls for which a second model was asked beside", ["model", "winner"], registry=registry
)
calls = Counter("slipway_router_calls", "Calls, by how they ended", ["route", "model", "outcome"], registry=registry)
repaired = Counter(
    "slipway_router_repaired_outputs",
    "Answers whose JSON was mended before it was passed on",
    ["model"],
    registry=registry,
)
cooldowns = Counter("slipway_router_cooldowns", "Cooldowns that began here", ["model"], registry=registry)
health_degraded = Gauge(
    "slipway_router_health_degraded", "1 while health is not shared because Redis is away", registry=registry
)
catalogue_refused = Counter(
    "slipway_router_catalogue_refused", "Catalogue files that were not taken up", registry=registry
)
orphans = Counter(
    "slipway_router_orphans",
    "Reservations of dead replicas that were released, and calls that were billed with their worst case",
    ["what"],
    registry=registry,
)
soft_limits = Counter("slipway_router_soft_limits", "Soft limits of budgets that were reached", registry=registry)
budget_refusals = Counter(
    "slipway_router_budget_refusals", "Attempts that no budget had room for, by scope", ["scope"], registry=registry
)
cache_lookups = Counter(
    "slipway_router_cache_lookups",
    "Questions of tenants with a cache, by what was found",
    ["result"],
    registry=registry,
)
throttled = Counter(
    "slipway_router_throttled",
    "Calls that the limits of a model made wait for their turn, or refused",
    ["model", "outcome"],
    registry=registry,
)
throttle_degraded = Gauge(
    "slipway_router_throttle_degraded", "1 while limits are per replica because Redis is away", registry=registry
)
