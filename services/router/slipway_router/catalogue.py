"""The catalogue: providers, the models they serve, and the routes that choose among models."""

from dataclasses import dataclass, field
from typing import Literal

from slipway_router.cost import Price

Kind = Literal["chat", "embedding"]
Capability = Literal["tools", "response_format", "images"]
DEFAULT_ROUTE = "default"
"""Route of chat requests that name neither model nor task."""
EMBEDDING_TASK = "embedding"
"""Task whose route serves embedding requests that name no model."""


@dataclass(frozen=True, slots=True)
class Provider:
    """A server that speaks OpenAI's wire format. `api_key` is the secret itself and stays out of every repr."""

    name: str
    base_url: str
    api_key: str = field(repr=False)
    regions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model of a provider. `upstream` is the provider's id for it."""

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


@dataclass(frozen=True, slots=True)
class Route:
    """Candidates in the order in which they are tried, all of one kind."""

    name: str
    tasks: tuple[str, ...]
    candidates: tuple[Model, ...]
    limits: Limits

    @property
    def kind(self) -> Kind:
        """Kind of its candidates."""
        return self.candidates[0].kind


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A catalogue file in force. `digest` is "sha256:<hex>" of its bytes."""

    digest: str
    regions: frozenset[str]
    models: dict[str, Model]
    routes: dict[str, Route]

    def route_for_task(self, task: str) -> Route | None:
        """The route that serves `task`, if there is one."""
        return next((route for route in self.routes.values() if task in route.tasks), None)

    def tasks(self) -> list[str]:
        """All tasks that routes serve."""
        return sorted(task for route in self.routes.values() for task in route.tasks)
