"""Counts of tokens, and what can be said about them before a provider has counted."""

from collections.abc import Iterable
from dataclasses import dataclass

_MESSAGE_OVERHEAD = 8
"""Tokens that a chat template puts around a message; templates in use take 3 to 7."""
_BYTES_PER_TOKEN = 4
"""English prose in current vocabularies; other languages and code have fewer bytes a token."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens in disjoint classes: each token is in one of them, so that each is paid once.

    `input` are those of the prompt in no other class: neither read from the provider's cache (`cached_input`), nor
    written to it (`cache_write`), nor of images that are counted apart (`image`). `output` is without `reasoning`.
    """

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_write: int = 0
    image: int = 0

    def __add__(self, other: "TokenCount") -> "TokenCount":
        return TokenCount(
            self.input + other.input,
            self.cached_input + other.cached_input,
            self.output + other.output,
            self.reasoning + other.reasoning,
            self.cache_write + other.cache_write,
            self.image + other.image,
        )

    @property
    def prompt(self) -> int:
        """All tokens that the model read."""
        return self.input + self.cached_input + self.cache_write + self.image

    @property
    def completion(self) -> int:
        """All tokens that the model made."""
        return self.output + self.reasoning


def estimated_tokens(texts: Iterable[str]) -> int:
    """About as many tokens as `texts`, one a message, will have: for window checks and missing usage reports."""
    return sum(-(-len(text.encode()) // _BYTES_PER_TOKEN) + _MESSAGE_OVERHEAD for text in texts)


def most_tokens(texts: Iterable[str]) -> int:
    """No tokenizer makes more tokens of `texts` than this: a token of a byte-level vocabulary has at least one byte."""
    return sum(len(text.encode()) + _MESSAGE_OVERHEAD for text in texts)
