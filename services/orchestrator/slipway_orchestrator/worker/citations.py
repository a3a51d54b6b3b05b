"""Which passages an answer rests on.

A model's own `[1]` proves nothing, least of all a small model's. So support is looked for in the words: a sentence of
the answer is supported by a passage when

1. at least 60 % of its distinct content words (letters or digits, without function words, compared by stem) stand in
   one window of two neighbouring sentences of the passage, and at least two of them do (all, where it has fewer), and
2. every number in it stands in that window.

Each supported sentence cites the passages that support it best (ties all); the quote is the passage's sentence that
shares most words with it. An answer none of whose sentences is supported has no citation and is not `grounded`: what
that means for the run is the definition's to say (`when: "steps.answer.output.grounded"`), since a good answer may use
words of its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

THRESHOLD = 0.6
_SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n+|(?<=[.!?])(?=[A-Z\[])")
_WORD = re.compile(r"[^\W_]+(?:[.,][0-9]+)*", re.UNICODE)
_MARKER = re.compile(r"\[[0-9]+\]")
_QUOTE = 300
_ENGLISH_AND_GERMAN = """
a an and are as at be been but by can could did do does for from had has have how i if in into is it its may me must my
no not of on or our shall should so such than that the their them then there these they this those to was we were what
when where which who will with would you your yes please also any all
der die das und ist ein eine einen zu mit von für auf im den dem des nicht es sie wir ich
"""
_FUNCTION_WORDS = frozenset(_ENGLISH_AND_GERMAN.split())


@dataclass(frozen=True, slots=True)
class Support:
    """A passage that an answer rests on."""

    passage: int
    """Position of the passage, from 0."""
    quote: str
    """Its sentence that says it."""


def supports(answer: str, passages: Sequence[str]) -> list[Support]:
    """The passages that support sentences of the answer, in their order."""
    windows = [_windows(text) for text in passages]
    best: dict[int, tuple[float, str]] = {}
    for sentence in _sentences(_MARKER.sub(" ", answer)):
        words = _content(sentence)
        if not words:
            continue
        scored = [_score(words, of_passage) for of_passage in windows]
        top = max((score for score, _ in scored), default=0.0)
        if top < THRESHOLD:
            continue
        for position, (score, quote) in enumerate(scored):
            if score == top and score > best.get(position, (0.0, ""))[0]:
                best[position] = score, quote
    return [Support(position, best[position][1]) for position in sorted(best)]


def _score(words: frozenset[str], windows: list[tuple[frozenset[str], list[str]]]) -> tuple[float, str]:
    """The largest share of the words in one window, and the window's sentence with most of them."""
    top, quote = 0.0, ""
    numbers = {word for word in words if word[0].isdigit()}
    for content, sentences in windows:
        shared = words & content
        if len(shared) < min(2, len(words)) or not numbers <= content:
            continue
        share = len(shared) / len(words)
        if share > top:
            top = share
            quote = max(sentences, key=lambda sentence: len(words & _content(sentence)))
    return top, quote[:_QUOTE]


def _windows(text: str) -> list[tuple[frozenset[str], list[str]]]:
    sentences = _sentences(text)
    pairs = [sentences[at : at + 2] for at in range(max(len(sentences) - 1, 1))]
    return [(frozenset().union(*(_content(sentence) for sentence in pair)), pair) for pair in pairs if pair]


def _sentences(text: str) -> list[str]:
    return [piece.strip() for piece in _SENTENCE.split(text) if piece.strip()]


def _content(sentence: str) -> frozenset[str]:
    words = (word.lower() for word in _WORD.findall(sentence))
    return frozenset(_stem(word) for word in words if word not in _FUNCTION_WORDS)


def _stem(word: str) -> str:
    if word[0].isdigit():
        return word.replace(",", ".")
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
