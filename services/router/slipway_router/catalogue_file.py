"""Reading a catalogue file: YAML with places, checked whole, references resolved.

Format: see `k8s/catalogue/models.yaml`, which is the default and explains each field.
"""

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from slipway_router.catalogue import Capability, Catalogue, Kind, Limits, Model, Provider, Route
from slipway_router.cost import Price

MAX_BYTES = 4 * 1024 * 1024

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
_Amount = Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,12})?$", strict=True)]
_Seconds = Annotated[float, Field(gt=0, le=3600)]


class CatalogueInvalid(Exception):
    """The file cannot be used; the message starts with `file:line:column:`."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _ProviderSpec(_Spec):
    type: Literal["openai"]
    base_url: str
    api_key: Annotated[str, StringConstraints(pattern=r"^secret:[A-Za-z0-9._-]+$")] | None = None
    regions: frozenset[_Name] = Field(min_length=1)


class _PriceSpec(_Spec):
    input: _Amount
    cached_input: _Amount | None = None
    output: _Amount = "0"
    reasoning: _Amount | None = None


class _ModelSpec(_Spec):
    provider: str
    upstream: str = Field(min_length=1)
    kind: Kind
    context_window: int = Field(gt=0)
    max_output_tokens: int = Field(default=0, ge=0)
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    capabilities: frozenset[Capability] = frozenset()
    price: _PriceSpec
    regions: frozenset[_Name] | None = Field(default=None, min_length=1)


class _RouteSpec(_Spec):
    tasks: tuple[_Name, ...] = ()
    candidates: tuple[str, ...] = Field(min_length=1, max_length=8)
    first_token_seconds: _Seconds = 60
    attempt_seconds: _Seconds = 120
    total_seconds: _Seconds = 180
    retries: int = Field(default=0, ge=0, le=3)


class _FileSpec(_Spec):
    version: Literal[1]
    regions: frozenset[_Name] = Field(min_length=1)
    providers: dict[_Name, _ProviderSpec]
    models: dict[_Name, _ModelSpec]
    routes: dict[_Name, _RouteSpec] = {}


class _Wrong(Exception):
    def __init__(self, path: Sequence[str | int], message: str) -> None:
        super().__init__(message)
        self.path = path


def load(path: Path, *, settings: Mapping[str, str], secrets: Mapping[str, str]) -> Catalogue:
    """Read and check the file at `path`.

    `settings` are the values that `setting:NAME` may refer to, `secrets` those of `secret:NAME`. Raises
    CatalogueInvalid with file, line and column.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CatalogueInvalid(f"{path}:1:1: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise CatalogueInvalid(f"{path}:1:1: larger than {MAX_BYTES} bytes")
    document = _parse(path, raw)
    try:
        spec = _FileSpec.model_validate(document)
        return _resolve(spec, f"sha256:{hashlib.sha256(raw).hexdigest()}", settings, secrets)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _placed(path, document, first["loc"], first["msg"]) from error
    except _Wrong as error:
        raise _placed(path, document, error.path, str(error)) from error


def _parse(path: Path, raw: bytes) -> Any:
    try:
        return YAML(typ="rt").load(raw.decode())
    except UnicodeDecodeError as error:
        raise CatalogueInvalid(f"{path}:1:1: not UTF-8") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise CatalogueInvalid(f"{path}:{line}:{column}: {error.problem}") from error
    except YAMLError as error:
        raise CatalogueInvalid(f"{path}:1:1: {str(error).splitlines()[0]}") from error


def _placed(path: Path, document: Any, location: Sequence[str | int], message: str) -> CatalogueInvalid:
    line, column = 0, 0
    node = document
    for key in location:
        place = _place(node, key)
        if place is None:
            break
        line, column = place
        node = node[key]
    where = ".".join(str(part) for part in location if part != "[key]") or "the file"
    return CatalogueInvalid(f"{path}:{line + 1}:{column + 1}: {where}: {message}")


def _place(node: Any, key: str | int) -> tuple[int, int] | None:
    try:
        if isinstance(node, dict) and key in node:
            return node.lc.key(key)  # pyright: ignore[reportAttributeAccessIssue] - ruamel's CommentedMap
        if isinstance(node, list) and isinstance(key, int) and key < len(node):
            return node.lc.item(key)  # pyright: ignore[reportAttributeAccessIssue] - ruamel's CommentedSeq
    except (AttributeError, KeyError):
        return None
    return None


def _resolve(spec: _FileSpec, digest: str, settings: Mapping[str, str], secrets: Mapping[str, str]) -> Catalogue:
    providers = {name: _provider(name, entry, spec, settings, secrets) for name, entry in spec.providers.items()}
    models = {name: _model(name, entry, providers) for name, entry in spec.models.items()}
    routes: dict[str, Route] = {}
    served: dict[str, str] = {}
    for name, entry in spec.routes.items():
        if name in models:
            raise _Wrong(["routes", name], "a model has the same name")
        routes[name] = _route(name, entry, models)
        for index, task in enumerate(entry.tasks):
            if task in served:
                raise _Wrong(["routes", name, "tasks", index], f"route {served[task]} serves {task} already")
            served[task] = name
    return Catalogue(digest=digest, regions=spec.regions, models=models, routes=routes)


def _provider(
    name: str, entry: _ProviderSpec, spec: _FileSpec, settings: Mapping[str, str], secrets: Mapping[str, str]
) -> Provider:
    base_url = entry.base_url
    if base_url.startswith("setting:"):
        setting = base_url.removeprefix("setting:")
        if not settings.get(setting):
            raise _Wrong(["providers", name, "base_url"], f"there is no setting {setting}, or it is empty")
        base_url = settings[setting]
    if not base_url.startswith(("http://", "https://")):
        raise _Wrong(["providers", name, "base_url"], "must be an http or https URL, or setting:NAME")
    key = ""
    if entry.api_key is not None:
        secret = entry.api_key.removeprefix("secret:")
        if secret not in secrets:
            raise _Wrong(["providers", name, "api_key"], f"there is no secret {secret}")
        key = secrets[secret]
    _known_regions(entry.regions, spec.regions, ["providers", name, "regions"])
    return Provider(name=name, base_url=base_url.rstrip("/"), api_key=key, regions=entry.regions)


def _model(name: str, entry: _ModelSpec, providers: Mapping[str, Provider]) -> Model:
    provider = providers.get(entry.provider)
    if provider is None:
        raise _Wrong(["models", name, "provider"], f"there is no provider {entry.provider}")
    if entry.kind == "chat" and not 0 < entry.max_output_tokens <= entry.context_window:
        raise _Wrong(["models", name, "max_output_tokens"], "a chat model needs one, at most its context window")
    regions = provider.regions if entry.regions is None else entry.regions
    _known_regions(regions, provider.regions, ["models", name, "regions"])
    price = entry.price
    return Model(
        name=name,
        provider=provider,
        upstream=entry.upstream,
        kind=entry.kind,
        context_window=entry.context_window,
        max_output_tokens=entry.max_output_tokens,
        max_tokens_parameter=entry.max_tokens_parameter,
        capabilities=entry.capabilities,
        price=Price(
            input=Decimal(price.input),
            cached_input=Decimal(price.cached_input or price.input),
            output=Decimal(price.output),
            reasoning=Decimal(price.reasoning or price.output),
        ),
        regions=regions,
    )


def _route(name: str, entry: _RouteSpec, models: Mapping[str, Model]) -> Route:
    candidates: list[Model] = []
    for index, candidate in enumerate(entry.candidates):
        place = ["routes", name, "candidates", index]
        model = models.get(candidate)
        if model is None:
            raise _Wrong(place, f"there is no model {candidate}")
        if model in candidates:
            raise _Wrong(place, f"{candidate} is named twice")
        if candidates and model.kind != candidates[0].kind:
            raise _Wrong(place, f"{candidate} is of kind {model.kind}, the first candidate is not")
        candidates.append(model)
    limits = Limits(entry.first_token_seconds, entry.attempt_seconds, entry.total_seconds, entry.retries)
    return Route(name=name, tasks=entry.tasks, candidates=tuple(candidates), limits=limits)


def _known_regions(regions: frozenset[str], known: frozenset[str], path: Sequence[str | int]) -> None:
    unknown = sorted(regions - known)
    if unknown:
        raise _Wrong(path, f"{', '.join(unknown)} is not among {', '.join(sorted(known))}")
