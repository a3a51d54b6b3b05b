"""The form of a catalogue file. `k8s/catalogue/models.yaml` explains each field."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from slipway_router.catalogue import Capability, Kind, Policy, ProviderType

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
_Amount = Annotated[str, StringConstraints(pattern=r"^\d{1,9}(\.\d{1,12})?$", strict=True)]
_Seconds = Annotated[float, Field(gt=0, le=3600)]
_Weight = Annotated[float, Field(ge=0, le=1000)]
_Percent = Annotated[float, Field(ge=0, le=100)]
_Example = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProviderSpec(_Spec):
    """An entry of `providers`."""

    type: ProviderType
    # Left out: the public address of the provider, known to litellm for its types.
    base_url: str = ""
    api_key: Annotated[str, StringConstraints(pattern=r"^(secret|env|file):.+$")] | None = None
    api_version: Annotated[str, StringConstraints(pattern=r"^[0-9a-z-]{1,32}$")] = ""
    regions: frozenset[_Name] = Field(min_length=1)
    data_classes: frozenset[_Name] = frozenset()


class PriceSpec(_Spec):
    """Prices of a model."""

    input: _Amount
    cached_input: _Amount | None = None
    cache_write: _Amount | None = None
    image: _Amount | None = None
    output: _Amount = "0"
    reasoning: _Amount | None = None


class RatesSpec(_Spec):
    """What may be asked in a minute."""

    requests_per_minute: int | None = Field(default=None, gt=0)
    tokens_per_minute: int | None = Field(default=None, gt=0)


class ThrottleSpec(RatesSpec):
    """`limits` of a model."""

    each_key: RatesSpec = RatesSpec()
    queue_seconds: float = Field(default=0, ge=0, le=600)


class ModelSpec(_Spec):
    """An entry of `models`."""

    provider: str
    upstream: str = Field(min_length=1)
    kind: Kind
    context_window: int = Field(gt=0)
    max_output_tokens: int = Field(default=0, ge=0)
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    capabilities: frozenset[Capability] = frozenset()
    price: PriceSpec
    regions: frozenset[_Name] | None = Field(default=None, min_length=1)
    data_classes: frozenset[_Name] | None = None
    quality: Literal["economy", "standard", "premium"] = "economy"
    expected_seconds: _Seconds | None = None
    max_inputs: int = Field(default=256, gt=0, le=2048)
    max_image_tokens: int = Field(default=4096, gt=0)
    limits: ThrottleSpec | None = None


class WeightsSpec(_Spec):
    """What counts how much."""

    cost: _Weight = 0
    latency: _Weight = 0
    quality: _Weight = 0
    reliability: _Weight = 0


class CanarySpec(_Spec):
    """A candidate on trial."""

    model: str
    percent: _Percent


class BadOutputSpec(_Spec):
    """What to do about output that is not valid."""

    repair: bool = False
    retries: int = Field(default=0, ge=0, le=3)


class RouteSpec(_Spec):
    """An entry of `routes`."""

    tasks: tuple[_Name, ...] = ()
    candidates: tuple[str, ...] = Field(min_length=1, max_length=256)
    policy: Policy = "ordered"
    weights: WeightsSpec | None = None
    shares: dict[str, _Weight] = {}
    canary: CanarySpec | None = None
    first_token_seconds: _Seconds = 60
    between_tokens_seconds: _Seconds = 30
    attempt_seconds: _Seconds = 120
    total_seconds: _Seconds = 180
    retries: int = Field(default=0, ge=0, le=3)
    hedge_seconds: _Seconds | None = None
    bad_output: BadOutputSpec = BadOutputSpec()
    fall_back_on_content_filter: bool = False
    record_percent: _Percent = 0


class ResidencySpec(_Spec):
    """An entry of `residency`."""

    tenant: str = Field(min_length=1)
    agent: str = ""
    regions: frozenset[_Name] | None = Field(default=None, min_length=1)
    data_classes: frozenset[_Name] = frozenset()


class ClassifierSpec(_Spec):
    """The classifier of tasks."""

    model: str
    minimum_similarity: float = Field(default=0.3, ge=-1, le=1)
    timeout_seconds: _Seconds = 2
    examples: dict[_Name, Annotated[tuple[_Example, ...], Field(min_length=1, max_length=64)]] = Field(min_length=1)


class CacheSpec(_Spec):
    """An entry of `cache`, by tenant."""

    ttl_seconds: int = Field(gt=0, le=604_800)


class FileSpec(_Spec):
    """The whole file."""

    version: Literal[1]
    regions: frozenset[_Name] = Field(min_length=1)
    data_classes: frozenset[_Name] = frozenset()
    providers: dict[_Name, ProviderSpec]
    models: dict[_Name, ModelSpec]
    routes: dict[_Name, RouteSpec] = {}
    residency: tuple[ResidencySpec, ...] = ()
    classifier: ClassifierSpec | None = None
    cache: dict[str, CacheSpec] = {}
