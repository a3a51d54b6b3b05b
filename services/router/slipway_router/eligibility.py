"""Which models may serve a request at all. Every demand fails closed.

What depends only on the caller and on demands that many requests share (policy, regions, data classes, capabilities,
quality) is looked up after the first time; what depends on the one request (window, latency, cost) is checked anew.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from slipway_chassis.policy import PolicyDecision

from slipway_router.catalogue import Model
from slipway_router.demand import Demand
from slipway_router.measurements import UNMEASURED, Measured

_CACHED_SHORTLISTS = 64
_EXACT_WITHIN = 1e-9
"""Costs nearer to the ceiling than this share of it are compared exactly."""


class Hurdle(enum.IntEnum):
    """What a candidate is checked for, in this order."""

    POLICY = 1
    REGION = 2
    DATA_CLASS = 3
    CAPABILITY = 4
    QUALITY = 5
    CONTEXT = 6
    LATENCY = 7
    COST = 8


class LeftOut:
    """A candidate that is not tried, the hurdle where it fell and why."""

    __slots__ = ("_reason", "hurdle", "model")

    def __init__(self, model: Model, hurdle: Hurdle, reason: str | Callable[[], str]) -> None:
        """`reason` may be made when somebody reads it: most are never read."""
        self.model = model
        self.hurdle = hurdle
        self._reason = reason

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        if not isinstance(self._reason, str):
            self._reason = self._reason()
        return self._reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be tried, and the policy decision that allows it."""

    model: Model
    policy: PolicyDecision


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The models of one scope that pass what does not depend on the single request."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    smallest_window: int
    input_rates: tuple[float, ...]
    output_rates: tuple[float, ...]
    """Dollars a token, dearest class, for comparisons; bills are exact."""


class Permissions:
    """What policy lets one caller use of one catalogue, with the shortlists that were made on it."""

    def __init__(self, decisions: Mapping[str, PolicyDecision]) -> None:
        """`decisions` by name of the model."""
        self.decisions = decisions
        self._shortlists: OrderedDict[tuple[object, ...], Shortlist] = OrderedDict()

    def shortlist(self, scope: str, models: Sequence[Model], demand: Demand) -> Shortlist:
        """The shortlist of `models`, the candidates of the route or the model named `scope`."""
        key = (scope, demand.regions, demand.data_classes, demand.needs, demand.quality)
        known = self._shortlists.get(key)
        if known is None:
            known = self._shortlists[key] = self._made(models, demand)
            if len(self._shortlists) > _CACHED_SHORTLISTS:
                self._shortlists.popitem(last=False)
        return known

    def _made(self, models: Sequence[Model], demand: Demand) -> Shortlist:
        candidates: list[Candidate] = []
        left_out: list[LeftOut] = []
        for model in models:
            policy = self.decisions[model.name]
            fallen = _lasting_hurdle(model, demand, policy)
            if fallen is None:
                candidates.append(Candidate(model, policy))
            else:
                left_out.append(fallen)
        rates = [_rates(candidate.model) for candidate in candidates]
        return Shortlist(
            candidates=tuple(candidates),
            left_out=tuple(left_out),
            smallest_window=min((candidate.model.context_window for candidate in candidates), default=0),
            input_rates=tuple(rate for rate, _ in rates),
            output_rates=tuple(rate for _, rate in rates),
        )


def _rates(model: Model) -> tuple[float, float]:
    million = 1_000_000
    return float(model.price.most(million, 0)) / million, float(model.price.most(0, million)) / million


def _lasting_hurdle(model: Model, demand: Demand, policy: PolicyDecision) -> LeftOut | None:
    if not policy.allowed:
        return LeftOut(model, Hurdle.POLICY, f"policy does not let you use {model.name}")
    # All regions of the model must be demanded ones: it may process a request in any of its own.
    if demand.regions is not None and not model.regions <= set(demand.regions):
        where = ", ".join(sorted(model.regions))
        return LeftOut(model, Hurdle.REGION, f"{model.name} is in {where}, outside of {', '.join(demand.regions)}")
    undeclared = demand.data_classes - model.data_classes
    if undeclared:
        return LeftOut(
            model, Hurdle.DATA_CLASS, f"{model.name} is not declared for data of class {', '.join(sorted(undeclared))}"
        )
    missing = demand.needs - model.capabilities
    if missing:
        return LeftOut(model, Hurdle.CAPABILITY, f"{model.name} does not support {', '.join(sorted(missing))}")
    if model.quality < demand.quality:
        return LeftOut(
            model,
            Hurdle.QUALITY,
            f"{model.name} is of quality {model.quality.name.lower()}, below {demand.quality.name.lower()}",
        )
    return None


def passing(shortlist: Shortlist, demand: Demand, measured: Measured) -> tuple[Sequence[int], Sequence[LeftOut]]:
    """Positions in the shortlist of the candidates that pass what depends on the request, and those that do not."""
    candidates = shortlist.candidates
    checks_window = demand.kind == "chat" and (
        demand.input_estimate + (demand.output_limit or 0) > shortlist.smallest_window
    )
    if not checks_window and demand.max_latency is None and demand.max_cost is None:
        return range(len(candidates)), ()
    passed: list[int] = []
    fallen: list[LeftOut] = []
    ceiling = None if demand.max_cost is None else float(demand.max_cost)
    for position, candidate in enumerate(candidates):
        model = candidate.model
        if checks_window and demand.input_estimate > model.context_window - (demand.output_limit or 0):
            fallen.append(LeftOut(model, Hurdle.CONTEXT, partial(_too_long, model, demand)))
            continue
        if demand.max_latency is not None:
            wait = measured.get(model.name, UNMEASURED).wait(demand.streamed)
            wait = model.expected_seconds if wait is None else wait
            if wait is not None and wait > demand.max_latency:
                fallen.append(LeftOut(model, Hurdle.LATENCY, partial(_too_slow, model, demand.max_latency, wait)))
                continue
        if ceiling is not None and not _within(shortlist, position, model, demand, ceiling):
            fallen.append(LeftOut(model, Hurdle.COST, partial(_too_dear, model, demand)))
            continue
        passed.append(position)
    return passed, fallen


def _too_long(model: Model, demand: Demand) -> str:
    room = max(model.context_window - (demand.output_limit or 0), 0)
    return (
        f"about {demand.input_estimate} tokens do not fit {model.name}: "
        f"its window of {model.context_window} leaves {room}"
    )


def _too_slow(model: Model, goal: float, wait: float) -> str:
    return f"{model.name} takes about {wait * 1000:.0f} ms, more than {goal * 1000:.0f}"


def _too_dear(model: Model, demand: Demand) -> str:
    assert demand.max_cost is not None  # noqa: S101 - asked only then
    # Plain digits: a Decimal by itself writes 0E-9.
    most, ceiling = (f"{amount.normalize():f}" for amount in (most_cost(model, demand), demand.max_cost))
    return f"{model.name} may cost {most} USD, more than {ceiling}"


def _within(shortlist: Shortlist, position: int, model: Model, demand: Demand, ceiling: float) -> bool:
    about = shortlist.input_rates[position] * input_most(model, demand)
    about += shortlist.output_rates[position] * output_most(model, demand)
    if abs(about - ceiling) > _EXACT_WITHIN * (about + ceiling):
        return about < ceiling
    return affordable(model, demand)


def most_cost(model: Model, demand: Demand) -> Decimal:
    """Dollars that one attempt at `model` can cost."""
    return model.price.most(input_most(model, demand), output_most(model, demand))


def input_most(model: Model, demand: Demand) -> int:
    """The most tokens that `model` can find in the input."""
    return demand.input_most + demand.images * model.max_image_tokens


def output_most(model: Model, demand: Demand) -> int:
    """The most tokens that `model` is allowed to answer with."""
    return 0 if demand.kind == "embedding" else output_limit(model, demand.output_limit)


def affordable(model: Model, demand: Demand, spent: Decimal = Decimal(0)) -> bool:
    """Whether an attempt at `model` stays below the cost ceiling after `spent` dollars for earlier attempts."""
    return demand.max_cost is None or spent + most_cost(model, demand) <= demand.max_cost


def output_limit(model: Model, asked: int | None) -> int:
    """Tokens that the answer may have: what is asked, never more than the catalogue's limit."""
    return model.max_output_tokens if asked is None else min(asked, model.max_output_tokens)
