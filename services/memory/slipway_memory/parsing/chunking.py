"""Blocks to chunks: slices of the document's normalised text that respect its structure.

The normalised text is the text of all blocks joined by blank lines. A chunk is `text[start:end]` of it, lies inside one
section (below one heading) and on one page, and is at most `MAX_TOKENS` long together with its headings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slipway_memory.parsing.blocks import Block, BlockKind

#: Tokens that a chunk aims at.
TARGET_TOKENS = 180
#: Window of MiniLM without its two marks at start and end. Headings and text share it.
MAX_TOKENS = 254
#: Tokens of a section's last chunk that the next one repeats.
OVERLAP_TOKENS = 36
#: Part of the window that headings may take; the outermost are left out of the embedded text first.
MAX_HEADING_TOKENS = 48
#: WordPiece counts a word of more than 100 characters as one unknown token; characters bound such text.
MAX_CHARACTERS = 2000

_SEPARATOR = "\n\n"
# Boundaries: group 1 is the white space between two parts, so that the tokens of parts add up to those of the whole.
_LINE = re.compile(r"(\n+)")
_SENTENCE = re.compile(r"(?:[.!?…][\"'”’)\]]*)(\s+)(?=[\"'“‘(\[]?[A-ZÀ-ÞА-Я0-9])|(\n+)")
_CELL = re.compile(r"\|(\s+)")
_WORD = re.compile(r"(\s+)")
_CUTS: Mapping[BlockKind, Sequence[re.Pattern[str]]] = {
    BlockKind.HEADING: (_SENTENCE, _WORD),
    BlockKind.PARAGRAPH: (_SENTENCE, _WORD),
    BlockKind.LIST: (_LINE, _SENTENCE, _WORD),
    BlockKind.TABLE: (_LINE, _CELL, _WORD),
    BlockKind.CODE: (_LINE, _WORD),
}
_PROSE = (BlockKind.PARAGRAPH, BlockKind.LIST)

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece to embed and to find. `context` are the headings as the model sees them, above the text."""

    text: str
    start: int
    end: int
    headings: tuple[str, ...]
    page: int
    context: str


@dataclass(frozen=True, slots=True)
class _Atom:
    """A slice that is not cut any further. It `overlaps`: the next chunk may repeat it; `torn`: ends inside a word."""

    start: int
    end: int
    tokens: int
    overlaps: bool = False
    torn: bool = False


@dataclass(frozen=True, slots=True)
class _Section:
    headings: tuple[str, ...]
    page: int
    blocks: Sequence[tuple[Block, int]]


def normalised_text(blocks: Sequence[Block]) -> str:
    """The text that offsets count in."""
    return _SEPARATOR.join(block.text for block in blocks)


def _sections(blocks: Sequence[Block]) -> Iterator[_Section]:
    """Runs of body blocks below one heading and on one page. A heading with nothing below it is a body of its own."""
    path: list[tuple[int, str]] = []
    body: list[tuple[Block, int]] = []
    offset = 0

    def section() -> _Section:
        return _Section(tuple(text for _, text in path), body[0][0].page, tuple(body))

    for position, block in enumerate(blocks):
        if block.kind is BlockKind.HEADING:
            if body:
                yield section()
                body = []
            while path and path[-1][0] >= block.level:
                path.pop()
            following = blocks[position + 1] if position + 1 < len(blocks) else None
            bare = following is None or (following.kind is BlockKind.HEADING and following.level <= block.level)
            if bare:
                yield _Section(tuple(text for _, text in path), block.page, ((block, offset),))
            path.append((block.level, block.text))
        else:
            if body and body[0][0].page != block.page:
                yield section()
                body = []
            body.append((block, offset))
        offset += len(block.text) + len(_SEPARATOR)
    if body:
        yield section()


def _spans(text: str, boundary: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Start and end of the parts between boundaries; blank parts are left out."""
    start = 0
    for match in boundary.finditer(text):
        end, following = match.span(match.lastindex or 0)
        if text[start:end].strip():
            yield start, end
        start = following
    if text[start:].strip():
        yield start, len(text)


class Chunker:
    """Cuts documents; `count` gives the tokens of a text."""

    def __init__(self, count: CountTokens) -> None:
        self._count = count

    def chunks(self, blocks: Sequence[Block]) -> Iterator[Chunk]:
        """Yields the chunks of a document in order."""
        text = normalised_text(blocks)
        for section in _sections(blocks):
            context = self._context(section.headings)
            room = MAX_TOKENS - self._count(context)
            for start, end in _Packer(text, self._count, room).pack(section.blocks):
                yield Chunk(text[start:end], start, end, section.headings, section.page, context)

    def _context(self, headings: Sequence[str]) -> str:
        """The headings as the model sees them, within their part of the window: the innermost are kept."""
        for first in range(len(headings)):
            context = " > ".join(headings[first:])
            if len(context) <= 400 and self._count(context) <= MAX_HEADING_TOKENS:
                return context
        return ""


class _Packer:
    """Fills chunks of one section up to the target; each starts with the last prose of the one before."""

    def __init__(self, text: str, count: CountTokens, room: int) -> None:
        self._text = text
        self._count = count
        self._room = room
        self._target = min(TARGET_TOKENS, room)
        self._atoms: list[_Atom] = []
        self._repeated = 0

    def pack(self, blocks: Sequence[tuple[Block, int]]) -> Iterator[tuple[int, int]]:
        """Yields start and end of each chunk. A block that fits is not torn for the sake of filling a chunk."""
        for block, offset in blocks:
            whole = self._tokens(block.text)
            if whole is not None and whole <= self._target and not self._has_room(offset + len(block.text), whole):
                yield from self._close(whole, overlaps=block.kind in _PROSE)
            for atom in self._cut_block(block, offset, whole):
                if not self._has_room(atom.end, atom.tokens) or (atom.torn and self._overflows(atom)):
                    yield from self._close(atom.tokens, overlaps=atom.overlaps)
                self._atoms.append(atom)
        yield from self._close(0, overlaps=False)

    def _tokens(self, text: str) -> int | None:
        """Tokens of a text that may stand in one chunk; None: it may not."""
        if len(text) > MAX_CHARACTERS:
            return None
        tokens = self._count(text)
        return tokens if tokens <= self._room else None

    def _cut_block(self, block: Block, offset: int, whole: int | None) -> Iterator[_Atom]:
        if block.kind is BlockKind.CODE and whole is not None:
            yield _Atom(offset, offset + len(block.text), whole)
        else:
            yield from self._cut(block.text, offset, _CUTS[block.kind], overlaps=block.kind in _PROSE)

    def _cut(self, text: str, offset: int, cuts: Sequence[re.Pattern[str]], *, overlaps: bool) -> Iterator[_Atom]:
        """Cuts at the first kind of boundary; parts that are too long at the next, at last between characters."""
        if not cuts:
            # Half the room even when each character is three tokens (decomposed Hangul).
            for start in range(0, len(text), 30):
                part = text[start : start + 30]
                yield _Atom(offset + start, offset + start + len(part), max(self._count(part), 1), overlaps, torn=True)
            return
        for start, end in _spans(text, cuts[0]):
            tokens = self._tokens(text[start:end])
            if tokens is None:
                yield from self._cut(text[start:end], offset + start, cuts[1:], overlaps=overlaps)
            else:
                yield _Atom(offset + start, offset + end, tokens, overlaps)

    def _has_room(self, end: int, tokens: int) -> bool:
        if not self._atoms:
            return True
        filled = sum(atom.tokens for atom in self._atoms)
        return filled + tokens <= self._target and end - self._atoms[0].start <= MAX_CHARACTERS

    def _overflows(self, atom: _Atom) -> bool:
        """True when the slice with `atom` is over the window: tokens of torn words do not add up."""
        return bool(self._atoms) and self._count(self._text[self._atoms[0].start : atom.end]) > self._room

    def _close(self, following: int, *, overlaps: bool) -> Iterator[tuple[int, int]]:
        """Ends the current chunk, and starts the next with what it repeats of this one."""
        if len(self._atoms) > self._repeated:
            yield self._atoms[0].start, self._atoms[-1].end
        kept: list[_Atom] = []
        tokens = 0
        for atom in reversed(self._atoms[1:] if overlaps else []):
            tokens += atom.tokens
            if not atom.overlaps or atom.torn or tokens > OVERLAP_TOKENS or tokens + following > self._target:
                break
            kept.insert(0, atom)
        self._atoms = kept
        self._repeated = len(kept)
