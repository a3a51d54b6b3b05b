"""Text of providers, made fit to be passed on."""

from typing import Any

_HIGH_SURROGATES = ("\ud800", "\udbff")


class TextJoiner:
    """Joins the pieces of a stream: a character that JSON escapes in two halves may be cut between two of them."""

    def __init__(self) -> None:
        self._half = ""

    def take(self, piece: str) -> str:
        """The text that can be passed on after `piece`."""
        if piece.isascii() and not self._half:
            return piece
        text = self._half + piece
        low, high = _HIGH_SURROGATES
        self._half = text[-1] if low <= text[-1:] <= high else ""
        return whole_characters(text.removesuffix(self._half) if self._half else text)

    def rest(self) -> str:
        """What is left at the end: a half character is none."""
        half, self._half = self._half, ""
        return whole_characters(half)


def text_of(content: Any) -> str:
    """Text of a message's or a delta's `content`: a string, or parts of which those of the type text are joined
    (Mistral's reasoning models answer so, with their thinking as another part). Raises TypeError for anything else."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str):
        raise TypeError("text expected")
    return content


def whole_characters(text: str) -> str:
    """`text` with its surrogate pairs joined, and U+FFFD for halves without the other: those have no UTF-8 form."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
