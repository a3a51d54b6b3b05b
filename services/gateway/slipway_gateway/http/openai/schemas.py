"""The answers' schemas for the OpenAPI document; the answers themselves are built in `answers.py`."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class Usage(BaseModel):
    """Tokens and cost of a call."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]
    cost_usd: float = Field(description="Cost of all attempts.")


class Choice(BaseModel):
    """The answer."""

    index: int
    message: dict[str, Any] = Field(description="`role`, `content`, `refusal`, `tool_calls`.")
    finish_reason: str = Field(description="`stop`, `length`, `tool_calls` or `content_filter`.")
    logprobs: None = None


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str = Field(description="Model id that the provider returned.")
    choices: list[Choice]
    usage: Usage


class EmbeddingsUsage(BaseModel):
    """Tokens and cost of a call."""

    prompt_tokens: int
    total_tokens: int
    cost_usd: float


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str = Field(description="Floats, or base64 of little-endian float32.")


class EmbeddingList(BaseModel):
    """A vector for each input, in order."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


class Model(BaseModel):
    """A model or route of the catalogue."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    slipway: dict[str, Any] = Field(description="Kind, regions, prices, limits, health.")


class ModelList(BaseModel):
    """Models and routes that the caller may use."""

    object: Literal["list"]
    data: list[Model]
