"""From the form of a catalogue file to the catalogue: references resolved, contradictions refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from slipway_router.catalogue import (
    QUALITIES,
    Canary,
    Catalogue,
    Classifier,
    Limits,
    Model,
    Provider,
    Rates,
    ResidencyRule,
    Route,
    Throttle,
    Weights,
)
from slipway_router.catalogue_spec import (
    ClassifierSpec,
    FileSpec,
    ModelSpec,
    PriceSpec,
    ProviderSpec,
    RatesSpec,
    ResidencySpec,
    RouteSpec,
    ThrottleSpec,
)
from slipway_router.cost import Price

_MOST_KEY_BYTES = 16 * 1024
MOST_EXAMPLES = 255
"""Examples and the text of a request are embedded in one call of at most 256 inputs."""


class Wrong(Exception):
    """An entry that cannot be: `path` leads to it."""

    def __init__(self, path: Sequence[str | int], message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class References:
    """What values in the file may refer to."""

    settings: Mapping[str, str]
    """For `setting:NAME`."""
    secrets: Mapping[str, str]
    """For `secret:NAME`."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """For `env:NAME`."""
    litellm: bool = False
    """Whether litellm is there, for the provider types that need it."""


def resolve(spec: FileSpec, digest: str, refers_to: References) -> Catalogue:
    """The catalogue that `spec` describes; raises Wrong."""
    providers = {name: _provider(name, entry, spec, refers_to) for name, entry in spec.providers.items()}
    models = {name: _model(name, entry, spec, providers) for name, entry in spec.models.items()}
    routes: dict[str, Route] = {}
    served: dict[str, str] = {}
    for name, entry in spec.routes.items():
        if name in models:
            raise Wrong(["routes", name], "a model has the same name")
        routes[name] = _route(name, entry, models)
        for index, task in enumerate(entry.tasks):
            if task in served:
                raise Wrong(["routes", name, "tasks", index], f"route {served[task]} serves {task} already")
            served[task] = name
    return Catalogue(
        digest=digest,
        regions=spec.regions,
        models=models,
        routes=routes,
        data_classes=spec.data_classes,
        residency=tuple(_residency(index, entry, spec) for index, entry in enumerate(spec.residency)),
        classifier=_classifier(spec.classifier, models, served) if spec.classifier else None,
        cache_seconds={tenant: entry.ttl_seconds for tenant, entry in spec.cache.items()},
        key_files=frozenset(
            Path(entry.api_key.removeprefix("file:"))
            for entry in spec.providers.values()
            if entry.api_key and entry.api_key.startswith("file:")
        ),
    )


def _provider(name: str, entry: ProviderSpec, spec: FileSpec, refers_to: References) -> Provider:
    place = ["providers", name]
    base_url = entry.base_url
    if base_url.startswith("setting:"):
        setting = base_url.removeprefix("setting:")
        if not refers_to.settings.get(setting):
            raise Wrong([*place, "base_url"], f"there is no setting {setting}, or it is empty")
        base_url = refers_to.settings[setting]
    direct = entry.type in ("openai", "azure")
    if not base_url.startswith(("http://", "https://")) and (base_url or direct):
        raise Wrong([*place, "base_url"], "must be an http or https URL, or setting:NAME")
    if not direct and not refers_to.litellm:
        raise Wrong([*place, "type"], f"{entry.type} needs litellm: set SLIPWAY_ROUTER_LITELLM_PYTHON")
    if entry.api_version and entry.type != "azure":
        raise Wrong([*place, "api_version"], "only Azure has one")
    _known("region", entry.regions, spec.regions, [*place, "regions"])
    _known("data class", entry.data_classes, spec.data_classes, [*place, "data_classes"])
    return Provider(
        name=name,
        base_url=base_url.rstrip("/"),
        api_key=_api_key(entry.api_key, refers_to, [*place, "api_key"]) if entry.api_key else "",
        regions=entry.regions,
        type=entry.type,
        api_version=entry.api_version,
    )


def _api_key(reference: str, refers_to: References, place: Sequence[str | int]) -> str:
    source, _, name = reference.partition(":")
    if source == "file":
        return _key_file(Path(name), place)
    known = refers_to.secrets if source == "secret" else refers_to.environment
    if not known.get(name):
        what = "secret" if source == "secret" else "environment variable"
        raise Wrong(place, f"there is no {what} {name}, or it is empty")
    return known[name]


def _key_file(path: Path, place: Sequence[str | int]) -> str:
    if not path.is_absolute():
        raise Wrong(place, "file: needs an absolute path")
    try:
        with path.open("rb") as file:
            key = file.read(_MOST_KEY_BYTES + 1).decode().strip()
    except OSError as error:
        raise Wrong(place, f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise Wrong(place, f"{path} holds no key: it is not text") from None
    if not key or len(key) > _MOST_KEY_BYTES or not key.isprintable():
        raise Wrong(place, f"{path} holds no key: one line of text is expected")
    return key


def _model(name: str, entry: ModelSpec, spec: FileSpec, providers: Mapping[str, Provider]) -> Model:
    place = ["models", name]
    provider = providers.get(entry.provider)
    if provider is None:
        raise Wrong([*place, "provider"], f"there is no provider {entry.provider}")
    if entry.kind == "chat" and not 0 < entry.max_output_tokens <= entry.context_window:
        raise Wrong([*place, "max_output_tokens"], "a chat model needs one, at most its context window")
    regions = provider.regions if entry.regions is None else entry.regions
    _known("region", regions, provider.regions, [*place, "regions"])
    allowed = spec.providers[entry.provider].data_classes
    data_classes = allowed if entry.data_classes is None else entry.data_classes
    _known("data class", data_classes, allowed, [*place, "data_classes"])
    return Model(
        name=name,
        provider=provider,
        upstream=entry.upstream,
        kind=entry.kind,
        context_window=entry.context_window,
        max_output_tokens=entry.max_output_tokens,
        max_tokens_parameter=entry.max_tokens_parameter,
        capabilities=entry.capabilities,
        price=_price(entry.price),
        regions=regions,
        quality=QUALITIES[entry.quality],
        data_classes=data_classes,
        expected_seconds=entry.expected_seconds,
        max_inputs=entry.max_inputs,
        max_image_tokens=entry.max_image_tokens,
        throttle=_throttle(entry.limits) if entry.limits else None,
    )


def _price(entry: PriceSpec) -> Price:
    return Price(
        input=Decimal(entry.input),
        cached_input=Decimal(entry.cached_input or entry.input),
        output=Decimal(entry.output),
        reasoning=Decimal(entry.reasoning or entry.output),
        cache_write=Decimal(entry.cache_write or entry.input),
        image=Decimal(entry.image or entry.input),
    )


def _throttle(entry: ThrottleSpec) -> Throttle:
    return Throttle(_rates(entry), _rates(entry.each_key), entry.queue_seconds)


def _rates(entry: RatesSpec) -> Rates:
    return Rates(entry.requests_per_minute, entry.tokens_per_minute)


def _route(name: str, entry: RouteSpec, models: Mapping[str, Model]) -> Route:
    place = ["routes", name]
    candidates: list[Model] = []
    for index, candidate in enumerate(entry.candidates):
        here = [*place, "candidates", index]
        model = models.get(candidate)
        if model is None:
            raise Wrong(here, f"there is no model {candidate}")
        if any(model is other for other in candidates):
            raise Wrong(here, f"{candidate} is named twice")
        if candidates and model.kind != candidates[0].kind:
            raise Wrong(here, f"{candidate} is of kind {model.kind}, the first candidate is not")
        candidates.append(model)
    if (entry.weights is not None) != (entry.policy == "weighted"):
        raise Wrong([*place, "policy"], "the policy weighted and weights belong together")
    weights = Weights(**entry.weights.model_dump()) if entry.weights else Weights()
    if entry.weights and not any(entry.weights.model_dump().values()):
        raise Wrong([*place, "weights"], "at least one must be above 0")
    _check_traffic(place, entry)
    return Route(
        name=name,
        tasks=entry.tasks,
        candidates=tuple(candidates),
        limits=Limits(
            first_token_seconds=entry.first_token_seconds,
            attempt_seconds=entry.attempt_seconds,
            total_seconds=entry.total_seconds,
            retries=entry.retries,
            between_tokens_seconds=entry.between_tokens_seconds,
            hedge_seconds=entry.hedge_seconds,
            bad_output_retries=entry.bad_output.retries,
            repair=entry.bad_output.repair,
            fall_back_on_content_filter=entry.fall_back_on_content_filter,
        ),
        policy=entry.policy,
        weights=weights,
        shares=tuple(entry.shares.items()),
        canary=Canary(entry.canary.model, entry.canary.percent) if entry.canary else None,
        record_percent=entry.record_percent,
    )


def _check_traffic(place: Sequence[str | int], entry: RouteSpec) -> None:
    if bool(entry.shares) != (entry.policy == "split"):
        raise Wrong([*place, "policy"], "the policy split and shares belong together")
    if entry.policy == "split" and not any(entry.shares.values()):
        raise Wrong([*place, "shares"], "at least one must be above 0")
    for model in entry.shares:
        if model not in entry.candidates:
            raise Wrong([*place, "shares", model], f"{model} is not a candidate")
    if entry.canary and entry.canary.model not in entry.candidates:
        raise Wrong([*place, "canary", "model"], f"{entry.canary.model} is not a candidate")


def _residency(index: int, entry: ResidencySpec, spec: FileSpec) -> ResidencyRule:
    place = ["residency", index]
    if entry.regions is None and not entry.data_classes:
        raise Wrong(place, "demands nothing: name regions or data_classes")
    _known("region", entry.regions or frozenset(), spec.regions, [*place, "regions"])
    _known("data class", entry.data_classes, spec.data_classes, [*place, "data_classes"])
    return ResidencyRule(entry.tenant, entry.agent, entry.regions, entry.data_classes)


def _classifier(entry: ClassifierSpec, models: Mapping[str, Model], served: Mapping[str, str]) -> Classifier:
    model = models.get(entry.model)
    if model is None or model.kind != "embedding":
        raise Wrong(["classifier", "model"], f"there is no embedding model {entry.model}")
    for task in entry.examples:
        if task not in served:
            raise Wrong(["classifier", "examples", task], f"no route serves the task {task}")
    examples = tuple((task, text) for task, texts in entry.examples.items() for text in texts)
    if len(examples) > MOST_EXAMPLES:
        raise Wrong(["classifier", "examples"], f"more than {MOST_EXAMPLES} examples")
    return Classifier(model, entry.minimum_similarity, entry.timeout_seconds, examples)


def _known(what: str, names: frozenset[str], known: frozenset[str], path: Sequence[str | int]) -> None:
    unknown = sorted(names - known)
    if unknown:
        among = ", ".join(sorted(known)) or "none: none is declared there"
        raise Wrong(path, f"{what} {', '.join(unknown)} is not among {among}")
