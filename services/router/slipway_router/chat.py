"""What is asked of a model and what comes back, in the router's own terms."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from slipway_router.catalogue import Capability, Quality
from slipway_router.output_checks import NO_CHECKS, OutputChecks
from slipway_router.tokens import TokenCount

JsonObject: TypeAlias = Mapping[str, Any]
"""Foreign JSON that is passed on as it is: tool declarations, response formats, further parameters."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool that the model asks for; `arguments_json` is JSON text."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `parts` is OpenAI's array form of content, used instead of `content`."""

    role: str
    content: str | None = None
    parts: tuple[JsonObject, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    refusal: str = ""

    def text(self) -> str:
        """All text of the message that a model will read, for estimates."""
        pieces = [self.content or "", self.refusal, self.name]
        pieces += [str(part.get("text", "")) for part in self.parts]
        pieces += [call.name + call.arguments_json for call in self.tool_calls]
        return "".join(pieces)


@dataclass(frozen=True, slots=True)
class Effect:
    """Key of an effect of a run: see slipway.effects.v1."""

    key: str
    epoch: int
    attempt: int
    root_run: str = ""
    """The run whose budget pays, when it is not the one in the key."""

    @property
    def run_id(self) -> str:
        """The run in the key."""
        return self.key.split("/", 1)[0]

    @property
    def root_run_id(self) -> str:
        """The run whose budget pays."""
        return self.root_run or self.run_id


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request, checked for form. `regions` None demands nothing; an empty set allows nothing."""

    messages: tuple[Message, ...]
    model: str = ""
    task: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    tools: tuple[JsonObject, ...] = ()
    tool_choice: Any = None
    response_format: JsonObject | None = None
    extra: JsonObject = field(default_factory=dict[str, Any])
    regions: tuple[str, ...] | None = None
    max_cost: Decimal | None = None
    session_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    effect: Effect | None = None
    request_id: str = ""
    run_max_cost: Decimal | None = None
    quality: Quality = Quality.ECONOMY
    max_latency: float | None = None
    data_classes: frozenset[str] = frozenset()
    capabilities: frozenset[Capability] = frozenset()
    replay_of: str = ""
    """Id of the recorded request that this one repeats for a comparison."""
    checks: OutputChecks = field(default=NO_CHECKS, compare=False, repr=False)
    """What the answer must be like: made of `tools` and `response_format`."""


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """Texts to embed, in order."""

    inputs: tuple[str, ...]
    model: str = ""
    regions: tuple[str, ...] | None = None
    effect: Effect | None = None
    run_max_cost: Decimal | None = None
    data_classes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Completion:
    """A provider's whole answer. `usage` None: it reported none."""

    content: str | None
    tool_calls: tuple[ToolCall, ...]
    refusal: str
    finish_reason: str
    model: str
    usage: TokenCount | None
    repaired: bool = False
    """Its JSON was mended."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text of a provider's stream; `model` is the id that the provider returned."""

    text: str
    model: str


@dataclass(frozen=True, slots=True)
class Vectors:
    """A provider's embeddings, in the order of the inputs: 32-bit numbers."""

    values: "tuple[array[float], ...]"
    model: str
    usage: TokenCount | None


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens and dollars of a call, all its attempts together."""

    tokens: TokenCount
    cost: Decimal
    estimated: bool
    cached: bool = False
    """Answered from the tenant's cache: nothing was bought."""


@dataclass(frozen=True, slots=True)
class Record:
    """The audit record of a call."""

    event_id: str
    commitment: str


@dataclass(frozen=True, slots=True)
class Routing:
    """How the model of an answer was chosen: the route, the task that chose it, and whether the classifier did."""

    route: str = ""
    task: str = ""
    task_proposed: bool = False


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """First event of a stream: the provider is settled."""

    model: str
    catalogue_model: str
    attempts: int
    request_id: str
    routing: Routing
    cached: bool = False
    """It comes from the tenant's cache: nothing is bought."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class StreamFinished:
    """Last event of a whole stream."""

    finish_reason: str
    spent: Spent
    record: Record


StreamEvent: TypeAlias = StreamStarted | TextDelta | ToolCall | StreamFinished
