"""Which models a request may go to, and in which order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from slipway_chassis.errors import InvalidArgument, SlipwayError

from slipway_router.catalogue import DEFAULT_ROUTE, Catalogue, Kind, Limits, Model, Route
from slipway_router.chat import Routing
from slipway_router.demand import Demand
from slipway_router.eligibility import Candidate, Hurdle, LeftOut, Permissions, passing
from slipway_router.errors import (
    CapabilityMissing,
    ContextTooLong,
    CostCeilingTooLow,
    LatencyGoalMissed,
    NoModelForData,
    NoModelInRegion,
    QualityMissing,
    UnknownModel,
    UnknownTask,
    WrongModelKind,
)
from slipway_router.measurements import Measured
from slipway_router.ranking import ranked


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the classifier said of a request that stated no task: the task, or in `note` why there is none."""

    task: str = ""
    similarity: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision for one request. `route` is None when a model was named.

    `scores` belong to `candidates`; `session_model` is the one that the session stays with, put first whatever its
    score.
    """

    demand: Demand
    route: Route | None
    limits: Limits
    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]
    catalogue_digest: str
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    note: str = ""
    proposal: Proposal | None = None
    session_model: str = ""

    @property
    def scope(self) -> str:
        """Name of the route, or of the model that was named."""
        return self.route.name if self.route else self.demand.model

    @property
    def keeps_order(self) -> bool:
        """True when the candidates of the next request will stand in the same order."""
        return self.route is None or (self.route.policy == "ordered" and self.route.canary is None)


def plan(catalogue: Catalogue, demand: Demand, permissions: Permissions, measured: Measured) -> Plan:
    """The models that `demand` may go to, in order; possibly none (see `refusal`).

    Raises UnknownModel, UnknownTask, WrongModelKind.
    """
    route, models, limits = _choose(catalogue, demand)
    shortlist = permissions.shortlist(route.name if route else demand.model, models, demand)
    positions, fallen = passing(shortlist, demand, measured)
    ranking = ranked(route, shortlist, positions, demand, measured)
    candidates = tuple([shortlist.candidates[position] for position in ranking.order])
    return Plan(
        demand=demand,
        route=route,
        limits=limits,
        candidates=candidates,
        left_out=(*shortlist.left_out, *fallen) if fallen else shortlist.left_out,
        catalogue_digest=catalogue.digest,
        scores={candidate.model.name: score for candidate, score in zip(candidates, ranking.scores, strict=True)},
        note=ranking.note,
    )


def check_candidates(plan: Plan, refuse: Callable[[Model], NoReturn]) -> None:
    """Raise why nothing can be tried, if so: the error of the candidate that came furthest. `refuse` raises the policy
    engine's own."""
    if not plan.candidates:
        furthest = max(plan.left_out, key=lambda left: left.hurdle)
        if furthest.hurdle is Hurdle.POLICY:
            refuse(furthest.model)
        raise _refusal(plan, furthest)


def routing_of(plan: Plan) -> Routing:
    """How the model was chosen, in short."""
    return Routing(
        route=plan.route.name if plan.route else "",
        task="" if plan.demand.model else plan.demand.task,
        task_proposed=plan.proposal is not None and bool(plan.proposal.task),
    )


def _refusal(plan: Plan, furthest: LeftOut) -> SlipwayError:
    match furthest.hurdle:
        case Hurdle.REGION:
            return NoModelInRegion(furthest.reason, metadata={"regions": ",".join(plan.demand.regions or ())})
        case Hurdle.DATA_CLASS:
            classes = ",".join(sorted(plan.demand.data_classes))
            return NoModelForData(furthest.reason, metadata={"data_classes": classes})
        case Hurdle.CAPABILITY:
            return CapabilityMissing(furthest.reason)
        case Hurdle.QUALITY:
            return QualityMissing(furthest.reason)
        case Hurdle.CONTEXT:
            return ContextTooLong(furthest.reason, field="chat.messages")
        case Hurdle.LATENCY:
            return LatencyGoalMissed(furthest.reason)
        case _:
            return CostCeilingTooLow(furthest.reason)


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
