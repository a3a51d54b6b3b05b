"""What OpenAI's clients send, and its conversion to the router's request."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from slipway.router.v1 import router_pb2 as pb
from slipway_chassis.errors import InvalidArgument
from slipway_chassis.money import to_money

from slipway_gateway.http.resources.fields import Labels, json_text
from slipway_gateway.http.resources.knowledge import Region

Quality = Literal["economy", "standard", "premium"]
Capability = Literal["tools", "response_format", "images", "audio", "files"]

# Known to the SDK, without an effect here: the end user goes into `metadata`, nothing is stored at providers.
_WITHOUT_EFFECT = frozenset({"user", "store", "service_tier", "safety_identifier", "prompt_cache_key"})


class Extensions(BaseModel):
    """Slipway's own parameters; a misspelt one is an error, for a demand that is lost is worse than none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field("", max_length=100, description="Chooses the route when `model` is empty.")
    max_cost_usd: Decimal | None = Field(None, ge=0, le=1_000_000, description="Ceiling for the cost of this call.")
    regions: list[Region] = Field(
        [], max_length=32, description="Demanded regions; an empty list is refused, never read as no demand."
    )
    session_id: str = Field(
        "",
        max_length=64,
        description="Keeps a conversation at one model. Any text of yours; the id of a session (`ses_…`) must be one "
        "that you may use.",
    )
    quality: Quality | None = Field(None, description="Lowest quality tier that will do.")
    max_latency_ms: int | None = Field(
        None,
        ge=1,
        le=3_600_000,
        description="Longest wait for the first token of a stream, or for a whole answer, that will do: models known "
        "to be slower are left out.",
    )
    data_classes: list[Region] = Field(
        [], max_length=32, description="Classes of data in the request; models must be declared for all of them."
    )
    capabilities: list[Capability] = Field(
        [], max_length=8, description="What models must be able to do beside what the request itself needs."
    )

    @property
    def demands_regions(self) -> bool:
        """True when the caller sent `regions`, whatever is in it."""
        return "regions" in self.model_fields_set


class FunctionCall(BaseModel):
    """The function that a call is of."""

    name: str = Field(min_length=1, max_length=200)
    arguments: str = Field("{}", max_length=262_144)


class ToolCall(BaseModel):
    """A call that an assistant's message asks for."""

    id: str = Field(min_length=1, max_length=200)
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(BaseModel):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, JsonValue]] | None = None
    name: str = Field("", max_length=200)
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: str = Field("", max_length=200)
    refusal: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if self.role == "tool" and not self.tool_call_id:
            raise ValueError("a tool's message names the call that it answers (tool_call_id)")
        if self.content is None and not (self.role == "assistant" and (self.tool_calls or self.refusal)):
            raise ValueError("content is missing")
        return self


class StreamOptions(BaseModel):
    """Options of a stream."""

    include_usage: bool = False


class ChatCompletionRequest(BaseModel):
    """A chat completion as OpenAI defines it. Parameters not listed are passed on to the provider as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str = Field("", max_length=200, description="A model or route; empty or `auto`: by `slipway.task`.")
    messages: list[Message] = Field(min_length=1, max_length=2048)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=1, description="Only one choice is made.")
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    tools: list[dict[str, JsonValue]] | None = Field(None, max_length=128)
    tool_choice: str | dict[str, JsonValue] | None = None
    response_format: dict[str, JsonValue] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    metadata: Labels | None = Field(None, description="The caller's labels, kept with the usage row.")
    slipway: Extensions = Extensions.model_construct()

    @property
    def wants_usage(self) -> bool:
        """True when the stream is to end with a usage chunk."""
        return self.stream_options is not None and self.stream_options.include_usage


class EmbeddingsRequest(BaseModel):
    """Embeddings as OpenAI defines them."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", max_length=200)
    input: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1, max_length=256)]
    ) = Field(description="A text, or up to 256; token arrays are not taken.")
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    slipway: Extensions = Extensions.model_construct()

    @field_validator("input", mode="wrap")
    @classmethod
    def _one_sentence(cls, value: object, validate: ValidatorFunctionWrapHandler) -> object:
        """A union's faults would be told once for each member, under names that no client has sent."""
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError(
                "embedding_input", "a text, or a list of 1 to 256 texts; no empty ones, no token arrays"
            ) from None


def chat_request(body: ChatCompletionRequest, request_id: str) -> pb.ChatRequest:
    """The router's request."""
    extensions = body.slipway
    message = pb.ChatRequest(
        # OpenAI's SDK cannot leave the model out; no name in the catalogue is meant by `auto`.
        model="" if body.model == "auto" else body.model,
        messages=[_message(item) for item in body.messages],
        stop=[body.stop] if isinstance(body.stop, str) else body.stop or [],
        tools_json=json_text(body.tools) if body.tools else "",
        tool_choice_json=json_text(body.tool_choice) if body.tool_choice is not None else "",
        response_format_json=json_text(body.response_format) if body.response_format is not None else "",
        extra_json=_extra(body.model_extra or {}),
        task=extensions.task,
        regions=extensions.regions,
        regions_demanded=extensions.demands_regions,
        max_cost=None if extensions.max_cost_usd is None else to_money(extensions.max_cost_usd),
        session_id=extensions.session_id,
        quality=extensions.quality or "",
        data_classes=extensions.data_classes,
        capabilities=extensions.capabilities,
        labels=body.metadata or {},
        request_id=request_id,
    )
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if limit is not None:
        message.max_tokens = limit
    if extensions.max_latency_ms is not None:
        message.max_latency.FromMilliseconds(extensions.max_latency_ms)
    if body.temperature is not None:
        message.temperature = body.temperature
    if body.top_p is not None:
        message.top_p = body.top_p
    if body.seed is not None:
        message.seed = body.seed
    return message


def _extra(extra: Mapping[str, Any]) -> str:
    passed = {name: value for name, value in extra.items() if value is not None and name not in _WITHOUT_EFFECT}
    return json_text(passed) if passed else ""


def _message(message: Message) -> pb.ChatMessage:
    converted = pb.ChatMessage(
        role=message.role,
        name=message.name,
        tool_call_id=message.tool_call_id,
        refusal=message.refusal or "",
        tool_calls=[
            pb.ToolCall(id=call.id, name=call.function.name, arguments_json=call.function.arguments)
            for call in message.tool_calls or ()
        ],
    )
    if isinstance(message.content, str):
        converted.content = message.content
    elif message.content is not None:
        converted.content_parts_json = json_text(message.content)
    return converted


def embeddings_request(body: EmbeddingsRequest) -> pb.CreateEmbeddingsRequest:
    """The router's request. Raises InvalidArgument for an extension that embeddings do not have."""
    unused = body.slipway.model_fields_set - {"regions", "data_classes"}
    if unused:
        raise InvalidArgument("embeddings do not take this", field=f"slipway.{min(unused)}")
    return pb.CreateEmbeddingsRequest(
        model=body.model,
        inputs=[body.input] if isinstance(body.input, str) else body.input,
        regions=body.slipway.regions,
        regions_demanded=body.slipway.demands_regions,
        data_classes=body.slipway.data_classes,
    )
