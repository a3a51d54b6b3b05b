"""Which models a request may go to, and in which order. Every demand fails closed."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from slipway_chassis.errors import InvalidArgument, SlipwayError
from slipway_chassis.policy import PolicyDecision

from slipway_router.catalogue import (
    DEFAULT_ROUTE,
    EMBEDDING_TASK,
    Capability,
    Catalogue,
    Kind,
    Limits,
    Model,
    Route,
)
from slipway_router.chat import ChatRequest, EmbeddingsRequest
from slipway_router.errors import (
    CapabilityMissing,
    ContextTooLong,
    CostCeilingTooLow,
    NoModelInRegion,
    RegionsInvalid,
    UnknownModel,
    UnknownTask,
    WrongModelKind,
)
from slipway_router.tokens import estimated_tokens, most_tokens


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of a model."""

    kind: Kind
    model: str
    task: str
    regions: tuple[str, ...] | None
    needs: frozenset[Capability] = frozenset()
    input_estimate: int = 0
    input_most: int = 0
    output_limit: int | None = None
    max_cost: Decimal | None = None

    @staticmethod
    def of_chat(request: ChatRequest) -> "Demand":
        """The demand of a chat request."""
        texts = [message.text() for message in request.messages]
        texts += [str(tool) for tool in request.tools]
        needs: set[Capability] = set()
        if request.tools:
            needs.add("tools")
        if request.response_format is not None and request.response_format.get("type") != "text":
            needs.add("response_format")
        if any(part.get("type") != "text" for message in request.messages for part in message.parts):
            needs.add("images")
        return Demand(
            kind="chat",
            model=request.model,
            task=request.task,
            regions=request.regions,
            needs=frozenset(needs),
            input_estimate=estimated_tokens(texts),
            input_most=most_tokens(texts),
            output_limit=request.max_tokens,
            max_cost=request.max_cost,
        )

    @staticmethod
    def of_embeddings(request: EmbeddingsRequest) -> "Demand":
        """The demand of an embeddings request; models cut inputs by themselves, so no window is checked."""
        return Demand(
            kind="embedding",
            model=request.model,
            task="" if request.model else EMBEDDING_TASK,
            regions=request.regions,
            input_estimate=estimated_tokens(request.inputs),
            input_most=most_tokens(request.inputs),
        )


class Hurdle(enum.IntEnum):
    """What a candidate is checked for, in this order."""

    POLICY = 1
    REGION = 2
    CAPABILITY = 3
    CONTEXT = 4
    COST = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A candidate that is not tried, the hurdle where it fell and why."""

    model: Model
    hurdle: Hurdle
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may be tried, and the policy decision that allows it."""

    model: Model
    policy: PolicyDecision


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision for one request. `route` is None when a model was named."""

    demand: Demand
    route: Route | None
    limits: Limits
    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    catalogue_digest: str


Decide = Callable[[Model], PolicyDecision]


def plan(catalogue: Catalogue, demand: Demand, decide: Decide) -> Plan:
    """The models that `demand` may go to, in order; possibly none (see `require`).

    Raises RegionsInvalid, UnknownModel, UnknownTask, WrongModelKind.
    """
    if demand.regions is not None:
        _check_regions(catalogue, demand.regions)
    route, models, limits = _choose(catalogue, demand)
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    for model in models:
        policy = decide(model)
        fallen = _hurdle(model, demand, policy)
        if fallen is None:
            candidates.append(Candidate(model, policy))
        else:
            left_out.append(fallen)
    return Plan(demand, route, limits, tuple(candidates), tuple(left_out), catalogue.digest)


def refusal(plan: Plan) -> SlipwayError | None:
    """Why nothing can be tried: the error of the candidate that came furthest. None when there is a candidate, and
    when every candidate fell at policy (the engine has an error of its own for that)."""
    if plan.candidates:
        return None
    furthest = max(plan.left_out, key=lambda left: left.hurdle)
    match furthest.hurdle:
        case Hurdle.POLICY:
            return None
        case Hurdle.REGION:
            return NoModelInRegion(furthest.reason, metadata={"regions": ",".join(plan.demand.regions or ())})
        case Hurdle.CAPABILITY:
            return CapabilityMissing(furthest.reason)
        case Hurdle.CONTEXT:
            return ContextTooLong(furthest.reason, field="chat.messages")
        case Hurdle.COST:
            return CostCeilingTooLow(furthest.reason)


def _check_regions(catalogue: Catalogue, regions: tuple[str, ...]) -> None:
    if not regions:
        raise RegionsInvalid("regions are demanded, but none is named", field="chat.regions")
    unknown = sorted(set(regions) - catalogue.regions)
    if unknown:
        known = ", ".join(sorted(catalogue.regions))
        raise RegionsInvalid(f"unknown region {', '.join(unknown)}: there are {known}", field="chat.regions")


def _choose(catalogue: Catalogue, demand: Demand) -> tuple[Route | None, tuple[Model, ...], Limits]:
    if demand.model in catalogue.models:
        model = catalogue.models[demand.model]
        _check_kind(model.name, model.kind, demand.kind)
        return None, (model,), Limits()
    if demand.model:
        route = catalogue.routes.get(demand.model)
        if route is None:
            raise UnknownModel(f"there is no model or route {demand.model}", field="chat.model")
    elif demand.task:
        route = catalogue.route_for_task(demand.task)
        if route is None:
            tasks = ", ".join(catalogue.tasks())
            raise UnknownTask(f"no route serves the task {demand.task}: there are {tasks}", field="chat.task")
    else:
        route = catalogue.routes.get(DEFAULT_ROUTE)
        if route is None:
            raise InvalidArgument("name a model or a task: the catalogue has no default route", field="chat.model")
    _check_kind(route.name, route.kind, demand.kind)
    return route, route.candidates, route.limits


def _check_kind(name: str, kind: Kind, wanted: Kind) -> None:
    if kind != wanted:
        raise WrongModelKind(f"{name} serves {kind}, not {wanted}", field="chat.model")


def _hurdle(model: Model, demand: Demand, policy: PolicyDecision) -> LeftOut | None:
    if not policy.allowed:
        return LeftOut(model, Hurdle.POLICY, f"policy does not let you use {model.name}")
    # All regions of the model must be demanded ones: it may process a request in any of its own.
    if demand.regions is not None and not model.regions <= set(demand.regions):
        where = ", ".join(sorted(model.regions))
        return LeftOut(model, Hurdle.REGION, f"{model.name} is in {where}, outside of {', '.join(demand.regions)}")
    missing = demand.needs - model.capabilities
    if missing:
        return LeftOut(model, Hurdle.CAPABILITY, f"{model.name} does not support {', '.join(sorted(missing))}")
    if demand.kind == "embedding":
        return None
    room = model.context_window - (demand.output_limit or 0)
    if demand.input_estimate > room:
        return LeftOut(
            model,
            Hurdle.CONTEXT,
            f"about {demand.input_estimate} tokens do not fit {model.name}: "
            f"its window of {model.context_window} leaves {max(room, 0)}",
        )
    if demand.max_cost is not None and not affordable(model, demand):
        # Plain digits: a Decimal by itself writes 0E-9.
        most, ceiling = (f"{amount.normalize():f}" for amount in (most_cost(model, demand), demand.max_cost))
        return LeftOut(model, Hurdle.COST, f"{model.name} may cost {most} USD, more than {ceiling}")
    return None


def most_cost(model: Model, demand: Demand) -> Decimal:
    """Dollars that one attempt at `model` can cost."""
    return model.price.most(demand.input_most, output_limit(model, demand.output_limit))


def affordable(model: Model, demand: Demand, spent: Decimal = Decimal(0)) -> bool:
    """Whether an attempt at `model` stays below the cost ceiling after `spent` dollars for earlier attempts."""
    return demand.max_cost is None or spent + most_cost(model, demand) <= demand.max_cost


def output_limit(model: Model, asked: int | None) -> int:
    """Tokens that the answer may have: what is asked, never more than the catalogue's limit."""
    return model.max_output_tokens if asked is None else min(asked, model.max_output_tokens)
