"""What every parser hands out: a title and blocks in reading order."""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

_SPACES = re.compile(r"[^\S\n]+")
# Characters that Postgres can't store or that nobody can read: controls but tab and newline, and lone surrogates.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class BlockKind(enum.Enum):
    """What a block is; chunks are cut after it."""

    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST = "list"
    TABLE = "table"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a document. `units` are its parts as the format knows them: items, rows, lines.

    The block's text is its units joined by newlines. `level` is a heading's, from 1. `page` counts from 1, 0 means that
    the format has no pages.
    """

    kind: BlockKind
    units: tuple[str, ...]
    level: int = 0
    page: int = 0

    @property
    def text(self) -> str:
        """The block's text."""
        return "\n".join(self.units)


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document's title ("" when the content has none), its blocks and its number of pages (0: no pages)."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    page_count: int = 0


def clean_line(text: str) -> str:
    """One line of prose: NFC, runs of white space as one space, unreadable characters gone."""
    text = _UNREADABLE.sub("", unicodedata.normalize("NFC", text)).replace("\n", " ")
    return _SPACES.sub(" ", text).strip()


def clean_code(text: str) -> str:
    """Code keeps its white space: NFC, tabs as four spaces, no trailing blanks, unreadable characters gone."""
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    return "\n".join(line.rstrip() for line in _UNREADABLE.sub("", text).strip("\n").split("\n"))


def heading(level: int, text: str, page: int = 0) -> Block | None:
    """A heading, or None when nothing is left of its text. More than 300 characters are no heading but a paragraph."""
    line = clean_line(text)
    if not line:
        return None
    if len(line) > 300:
        return Block(BlockKind.PARAGRAPH, (line,), page=page)
    return Block(BlockKind.HEADING, (line,), level=level, page=page)


def paragraph(text: str, page: int = 0) -> Block | None:
    """A paragraph, or None when nothing is left of its text. Newlines in `text` are line breaks to keep."""
    lines = tuple(line for line in (clean_line(part) for part in text.split("\n")) if line)
    return Block(BlockKind.PARAGRAPH, lines, page=page) if lines else None


def bullet_list(items: Sequence[str], page: int = 0) -> Block | None:
    """A list of items that carry their own mark (`- `, `1. `), or None when all are empty."""
    units = tuple(line for line in (clean_line(item) for item in items) if line.strip("-•* "))
    return Block(BlockKind.LIST, units, page=page) if units else None


def code(text: str, page: int = 0) -> Block | None:
    """A code block, or None when it is blank."""
    cleaned = clean_code(text)
    return Block(BlockKind.CODE, tuple(cleaned.split("\n")), page=page) if cleaned.strip() else None


def table(rows: Sequence[Sequence[str]], *, has_header: bool, page: int = 0) -> Block | None:
    """A table. Each row repeats its header, `Column: value | Column: value`, so that it is understood wherever a
    chunk is cut. None when every cell is empty.
    """
    cells = [[clean_line(cell) for cell in row] for row in rows]
    header = cells[0] if has_header and cells else []
    body = cells[1:] if header else cells
    units: list[str] = []
    for row in body or [header]:
        parts: list[str] = []
        for position, cell in enumerate(row):
            name = header[position] if body and position < len(header) else ""
            if cell:
                parts.append(f"{name}: {cell}" if name else cell)
        if parts:
            units.append(" | ".join(parts))
    return Block(BlockKind.TABLE, tuple(units), page=page) if units else None
