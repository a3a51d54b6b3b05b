"""The order in which candidates are tried: a score by the route's policy, the highest first.

Costs are compared by estimate (the prompt's tokens, and the output asked for), waits as they were measured, else as the
catalogue declares them; a model of which nothing is known counts as fast, so that it gets measured. Equal scores keep
the file's order.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slipway_router.catalogue import Model, Quality, Route
from slipway_router.demand import Demand
from slipway_router.eligibility import Shortlist
from slipway_router.measurements import UNMEASURED, Measured

_TYPICAL_OUTPUT_TOKENS = 500
"""For comparisons of cost when no output limit is asked for."""
_LEAST_SUCCESS = 0.05
_LEAST_WAIT = 0.001

Draw = Callable[[], float]
"""A number in [0, 1) that decides who gets a share of the traffic."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Positions of the shortlist in the order of their scores. `note` tells what chance decided."""

    order: tuple[int, ...]
    scores: tuple[float, ...]
    note: str = ""


def draw_of(demand: Demand) -> Draw:
    """The same number for all requests of a session, so that it does not change sides; else any."""
    if not demand.session:
        return random.random
    digest = hashlib.blake2b(demand.session.encode(), digest_size=6).digest()
    number = int.from_bytes(digest, "big") / 2**48
    return lambda: number


def ranked(
    route: Route | None, shortlist: Shortlist, positions: Sequence[int], demand: Demand, measured: Measured
) -> Ranking:
    """The order of the candidates at `positions`; a model that was named stands alone."""
    if route is None or (route.policy == "ordered" and route.canary is None):
        return Ranking(tuple(positions), tuple(-float(place) for place in range(len(positions))))
    scores = _scores(route, shortlist, positions, demand, measured)
    order = sorted(range(len(positions)), key=scores.__getitem__, reverse=True)
    note = ""
    draw = draw_of(demand)
    names = [shortlist.candidates[position].model.name for position in positions]
    if route.policy == "split":
        order, note = _drawn(order, scores, names, draw())
    if route.canary is not None and route.canary.model in names:
        at = names.index(route.canary.model)
        order.remove(at)
        chosen = draw() * 100 < route.canary.percent
        order.insert(0 if chosen else len(order), at)
        took = "this request is one of them" if chosen else "this request is none of them, so it is the last resort"
        note = f"{route.canary.percent:g} % of requests go to {route.canary.model} first: {took}"
    return Ranking(tuple(positions[at] for at in order), tuple(scores[at] for at in order), note)


def expected_cost(model: Model, demand: Demand) -> float:
    """Dollars that a call will cost about, for comparison and explanation."""
    output = demand.output_limit if demand.output_limit is not None else _TYPICAL_OUTPUT_TOKENS
    price = model.price
    output = min(output, model.max_output_tokens)
    return (float(price.input) * demand.input_estimate + float(price.output) * output) / 1_000_000


def expected_wait(model: Model, demand: Demand, measured: Measured) -> float | None:
    """Seconds until the first token or the whole answer, as measured or else declared; None: unknown."""
    wait = measured.get(model.name, UNMEASURED).wait(demand.streamed)
    return model.expected_seconds if wait is None else wait


def _scores(
    route: Route, shortlist: Shortlist, positions: Sequence[int], demand: Demand, measured: Measured
) -> list[float]:
    match route.policy:
        case "ordered":
            return [-float(place) for place in range(len(positions))]
        case "cheapest":
            return [-cost for cost in _costs(shortlist, positions, demand)]
        case "fastest":
            return [-wait for wait in _waits(shortlist, positions, demand, measured)]
        case "quality":
            costs = _costs(shortlist, positions, demand)
            dearest = max(costs, default=0) or 1.0
            # Within a tier the cheaper one: the cost moves the score by less than a tier.
            return [
                shortlist.candidates[position].model.quality - 0.5 * cost / dearest
                for position, cost in zip(positions, costs, strict=True)
            ]
        case "weighted":
            return _weighted(route, shortlist, positions, demand, measured)
        case "split":
            shares = dict(route.shares)
            return [shares.get(shortlist.candidates[position].model.name, 0.0) for position in positions]


def _costs(shortlist: Shortlist, positions: Sequence[int], demand: Demand) -> list[float]:
    given = demand.input_estimate
    asked = demand.output_limit if demand.output_limit is not None else _TYPICAL_OUTPUT_TOKENS
    candidates, inputs, outputs = shortlist.candidates, shortlist.input_rates, shortlist.output_rates
    return [
        inputs[position] * given + outputs[position] * min(asked, candidates[position].model.max_output_tokens)
        for position in positions
    ]


def _waits(shortlist: Shortlist, positions: Sequence[int], demand: Demand, measured: Measured) -> list[float]:
    waits: list[float] = []
    for position in positions:
        model = shortlist.candidates[position].model
        known = measured.get(model.name, UNMEASURED)
        wait = known.wait(demand.streamed)
        if wait is None:
            wait = model.expected_seconds or 0.0
        # A failure costs the wait as well: on average that many attempts are needed.
        waits.append(wait / max(1 - known.error_rate, _LEAST_SUCCESS))
    return waits


def _weighted(
    route: Route, shortlist: Shortlist, positions: Sequence[int], demand: Demand, measured: Measured
) -> list[float]:
    weights = route.weights
    costs, waits = _costs(shortlist, positions, demand), _waits(shortlist, positions, demand, measured)
    cheapest, quickest = min(costs, default=0), min(waits, default=0) + _LEAST_WAIT
    whole = weights.cost + weights.latency + weights.quality + weights.reliability
    scores: list[float] = []
    for position, cost, wait in zip(positions, costs, waits, strict=True):
        model = shortlist.candidates[position].model
        # Each part between 0 and 1, 1 for the best candidate.
        thrift = cheapest / cost if cost > 0 else 1.0
        speed = quickest / (wait + _LEAST_WAIT)
        reliability = 1 - measured.get(model.name, UNMEASURED).error_rate
        score = (
            weights.cost * thrift
            + weights.latency * speed
            + weights.quality * model.quality / Quality.PREMIUM
            + weights.reliability * reliability
        )
        scores.append(score / whole)
    return scores


def _drawn(order: list[int], shares: Sequence[float], names: Sequence[str], draw: float) -> tuple[list[int], str]:
    whole = sum(shares)
    if whole <= 0:
        return order, "no candidate with a share is left"
    mark = draw * whole
    for at in order:
        mark -= shares[at]
        if mark < 0:
            note = f"{names[at]} was drawn for {shares[at] / whole:.0%} of the requests"
            return [at, *(other for other in order if other != at)], note
    return order, ""
