"""How long the choice among 100 models takes: one JSON line per policy, in microseconds of one core.

    .venv/bin/python bench/routing_decision.py

The catalogue is a file with one route over 100 models, loaded as the router loads it, with waits measured for all of
them; the callers are known (what policy lets them use is kept per caller), the demands of the requests differ.
"""

import json
import statistics
import tempfile
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from slipway_chassis.policy import PolicyDecision
from slipway_router.catalogue_file import load
from slipway_router.catalogue_resolve import References
from slipway_router.demand import Demand, with_residency
from slipway_router.eligibility import Permissions
from slipway_router.measurements import Performance
from slipway_router.routing import plan

MODELS = 100
ROUNDS = 4000
POLICIES = {
    "ordered": {},
    "cheapest": {},
    "fastest": {},
    "quality": {},
    "weighted": {"weights": {"cost": 1, "latency": 1, "quality": 1, "reliability": 1}},
    "split": {"shares": {f"m{number}": number + 1 for number in range(MODELS)}},
}


def catalogue(policy: str, more: dict[str, object]) -> dict[str, object]:
    """A catalogue with one route over all models."""
    models = {
        f"m{number}": {
            "provider": "eu" if number % 3 else "us",
            "upstream": f"m{number}",
            "kind": "chat",
            "context_window": 8000 + 1000 * number,
            "max_output_tokens": 4000,
            "quality": ("economy", "standard", "premium")[number % 3],
            "capabilities": ["tools", "response_format"],
            "price": {"input": f"{1 + number / 10:.2f}", "output": f"{2 + number / 5:.2f}"},
        }
        for number in range(MODELS)
    }
    providers = {
        region: {"type": "openai", "base_url": "http://127.0.0.1:9/v1", "regions": [region]} for region in ("eu", "us")
    }
    return {
        "version": 1,
        "regions": ["eu", "us"],
        "providers": providers,
        "models": models,
        "routes": {"default": {"candidates": list(models), "policy": policy, **more}},
        "residency": [{"tenant": "acme", "regions": ["eu", "us"]}],
    }


def main() -> None:
    """Print the figures."""
    measured = {f"m{n}": Performance(first_token=0.2 + n / 100, whole=1 + n / 50, attempts=9) for n in range(MODELS)}
    base = Demand(kind="chat", model="", task="", regions=None, needs=frozenset({"tools"}), input_estimate=900)
    demands = [
        replace(base, input_most=4 * base.input_estimate + n, input_estimate=base.input_estimate + n, **fields)
        for n in range(50)
        for fields in (
            {},
            {"regions": ("eu",)},
            {"max_cost": Decimal("0.05")},
            {"max_latency": 2.0, "max_cost": Decimal("0.02"), "regions": ("eu",)},
        )
    ]
    decision = PolicyDecision(True, "sha256:0", ())
    for policy, more in POLICIES.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "models.yaml"
            file.write_text(json.dumps(catalogue(policy, more)))
            made = load(file, References({}, {}))
        permissions = Permissions(dict.fromkeys(made.models, decision))
        times: list[float] = []
        for number in range(ROUNDS):
            demand = demands[number % len(demands)]
            began = time.perf_counter()
            plan(made, with_residency(demand, made, "acme", None), permissions, measured)
            times.append((time.perf_counter() - began) * 1e6)
        ordered = sorted(times)
        figures = {
            "bench": "routing_decision",
            "models": MODELS,
            "policy": policy,
            "median_us": round(statistics.median(ordered), 1),
            "p99_us": round(ordered[int(len(ordered) * 0.99)], 1),
            "target_us": 150,
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
