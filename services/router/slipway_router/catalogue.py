"""The catalogue: providers, the models they serve, and the routes that choose among models."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from slipway_router.cost import Price

Kind = Literal["chat", "embedding"]
Capability = Literal["tools", "response_format", "images", "audio", "files"]
CAPABILITIES: tuple[Capability, ...] = ("tools", "response_format", "images", "audio", "files")
ProviderType = Literal["openai", "azure", "anthropic", "gemini"]
Policy = Literal["ordered", "cheapest", "fastest", "quality", "weighted", "split"]
DEFAULT_ROUTE = "default"
"""Route of chat requests that name neither model nor task."""
EMBEDDING_TASK = "embedding"
"""Task whose route serves embedding requests that name no model."""


class Quality(enum.IntEnum):
    """Tiers of quality as the catalogue's owner judges them; a demand is for at least its tier."""

    ECONOMY = 1
    STANDARD = 2
    PREMIUM = 3


QUALITIES: Mapping[str, Quality] = {tier.name.lower(): tier for tier in Quality}


@dataclass(frozen=True, slots=True)
class Provider:
    """A server of models. `api_key` is the secret itself and stays out of every repr.

    `openai` and `azure` are spoken to directly in OpenAI's wire format, the other types through litellm's SDK.
    """

    name: str
    base_url: str
    api_key: str = field(repr=False)
    regions: frozenset[str]
    type: ProviderType = "openai"
    api_version: str = ""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Further headers of each request."""

    @property
    def is_direct(self) -> bool:
        """True when it speaks OpenAI's wire format itself."""
        return self.type in ("openai", "azure")

    def credentials(self) -> dict[str, str]:
        """The headers that authenticate the platform; Azure has one of its own for keys."""
        headers = dict(self.headers)
        if self.api_key:
            name, value = (
                ("api-key", self.api_key) if self.type == "azure" else ("authorization", f"Bearer {self.api_key}")
            )
            headers[name] = value
        return headers


@dataclass(frozen=True, slots=True)
class Rates:
    """What may be asked in a minute; None: any number. Tokens are the worst case of calls under way, then what they
    used."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Throttle:
    """How fast a model may be asked, by all together and with each key; a call waits `queue_seconds` for its turn."""

    together: Rates
    each_key: Rates
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a provider. `upstream` is the provider's id for it, `expected_seconds` the wait that the file
    declares until one is measured."""

    name: str
    provider: Provider
    upstream: str
    kind: Kind
    context_window: int
    max_output_tokens: int
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"]
    capabilities: frozenset[Capability]
    price: Price
    regions: frozenset[str]
    quality: Quality = Quality.ECONOMY
    data_classes: frozenset[str] = frozenset()
    expected_seconds: float | None = None
    max_inputs: int = 256
    """The most texts that one request for embeddings may hold."""
    max_image_tokens: int = 0
    """The most tokens that one image can be."""
    throttle: Throttle | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how often a call is tried. Seconds."""

    first_token_seconds: float = 60
    """From sending to the first text or tool call of a stream."""
    attempt_seconds: float = 120
    """One attempt at one model."""
    total_seconds: float = 180
    """The whole call, all attempts together."""
    retries: int = 0
    """Further tries of the same model before the next candidate."""
    between_tokens_seconds: float = 30
    """The longest silence within a stream after its first token; comments do not break it."""
    hedge_seconds: float | None = None
    """After so long without a first token or answer the next candidate is tried beside; None: never."""
    bad_output_retries: int = 0
    """Further tries of a model whose tool call or JSON was not valid, before the next candidate."""
    repair: bool = False
    """Whether JSON of a model is mended (fences, trailing commas) before it is judged."""
    fall_back_on_content_filter: bool = False
    """Whether another model is tried when a provider's content policy stops the answer."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What counts how much under the policy `weighted`."""

    cost: float = 0
    latency: float = 0
    quality: float = 0
    reliability: float = 0


@dataclass(frozen=True, slots=True)
class Canary:
    """A candidate that gets `percent` of the requests first, and is the last resort of all others."""

    model: str
    percent: float


@dataclass(frozen=True, slots=True)
class Route:
    """Candidates and the policy that orders them, all of one kind."""

    name: str
    tasks: tuple[str, ...]
    candidates: tuple[Model, ...]
    limits: Limits
    policy: Policy = "ordered"
    weights: Weights = Weights()
    shares: tuple[tuple[str, float], ...] = ()
    canary: Canary | None = None
    record_percent: float = 0

    @property
    def kind(self) -> Kind:
        """Kind of its candidates."""
        return self.candidates[0].kind


@dataclass(frozen=True, slots=True)
class ResidencyRule:
    """What every request of a tenant, or of one of its agents, demands whatever the request itself says."""

    tenant: str
    agent: str
    regions: frozenset[str] | None
    data_classes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Classifier:
    """Proposes a task for requests that state none, by the similarity of their text to examples."""

    model: Model
    minimum_similarity: float
    timeout_seconds: float
    examples: tuple[tuple[str, str], ...]
    """Pairs of task and example."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A catalogue file in force. `digest` is "sha256:<hex>" of its bytes."""

    digest: str
    regions: frozenset[str]
    models: dict[str, Model]
    routes: dict[str, Route]
    data_classes: frozenset[str] = frozenset()
    residency: tuple[ResidencyRule, ...] = ()
    classifier: Classifier | None = None
    cache_seconds: Mapping[str, int] = field(default_factory=dict[str, int])
    """Tenants whose answers are kept for repetitions, and how long."""
    key_files: frozenset[Path] = frozenset()
    """Files that API keys were read from."""

    def route_for_task(self, task: str) -> Route | None:
        """The route that serves `task`, if there is one."""
        return next((route for route in self.routes.values() if task in route.tasks), None)

    def tasks(self) -> list[str]:
        """All tasks that routes serve."""
        return sorted(task for route in self.routes.values() for task in route.tasks)
