"""From positioned text to blocks. PDF has no headings or paragraphs; they are told by size, weight and distance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from slipway_memory.parsing.blocks import Block, bullet_list, clean_line, heading, paragraph, table

_BULLET = re.compile(r"^(?:[•●▪◦‣∙·–*-]|\(?\d{1,3}[.)]|[a-z][.)])(?=\s|$)")
_BARE_MARK = re.compile(r"^(?:[•●▪◦‣∙·–*-]|\(?(?:\d{1,3}|[a-zA-Z])[.)]?)$")
_WORD_BREAK = re.compile(r"(?<=[a-zäöüß])-$")


@dataclass(frozen=True, slots=True)
class Span:
    """Text at a place on a page: points from the lower left corner, size in points."""

    x: float
    y: float
    size: float
    bold: bool
    text: str


Page = Sequence[Span]


@dataclass(slots=True)
class Line:
    """Spans on one base line. `cells` are the parts that the page itself keeps apart."""

    page: int
    y: float
    size: float
    bold: bool
    cells: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def text(self) -> str:
        """The whole line."""
        return clean_line(" ".join(self.cells))

    @property
    def is_item(self) -> bool:
        """True for a line that starts with a list mark."""
        return bool(_BULLET.match(self.text)) or (
            len(self.cells) == 2 and bool(_BARE_MARK.match(self.cells[0].strip()))
        )


def _lines(page: Page, number: int) -> Iterator[Line]:
    line: Line | None = None
    for span in page:
        for position, part in enumerate(span.text.split("\n")):
            if position and line is not None:
                line.ended = True
            if not part.strip():
                continue
            if line is None or abs(line.y - span.y) > 0.4 * max(line.size, span.size, 1.0):
                if line is not None:
                    yield line
                line = Line(number, span.y, span.size, span.bold, [part])
            else:
                if line.ended:
                    line.cells.append(part)
                else:
                    line.cells[-1] += part
                line.size = max(line.size, span.size)
                line.bold = line.bold and span.bold
            line.ended = False
    if line is not None:
        yield line


def _without_furniture(pages: list[list[Line]]) -> list[Line]:
    """Drops running heads, feet and page numbers: the top or bottom line of a page that most pages have at the same
    height, digits apart. Other lines stay, however often they come: a form repeats its text, too.
    """

    def key(line: Line) -> tuple[int, str]:
        return round(line.y), re.sub(r"\d+", "#", line.text)

    def outermost(page: list[Line]) -> list[Line]:
        return [max(page, key=lambda line: line.y), min(page, key=lambda line: line.y)] if len(page) > 1 else []

    seen = Counter(found for page in pages for found in {key(line) for line in outermost(page)})
    often = max(3, len(pages) // 2)
    kept: list[Line] = []
    for page in pages:
        dropped = [id(line) for line in outermost(page) if seen[key(line)] >= often]
        kept += [line for line in page if id(line) not in dropped]
    return kept


def _leading(lines: Sequence[Line], body: float) -> float:
    """The usual distance of two lines of a paragraph, in points."""
    gaps = sorted(
        before.y - after.y
        for before, after in pairwise(lines)
        if before.page == after.page and before.size == after.size == body and before.y > after.y
    )
    usual = gaps[len(gaps) // 4] if gaps else 1.2 * body
    return min(max(usual, body), 2.6 * body)


class _Layout:
    def __init__(self, lines: Sequence[Line]) -> None:
        sizes: Counter[float] = Counter()
        for line in lines:
            sizes[line.size] += len(line.text)
        self.lines = lines
        self.body = sizes.most_common(1)[0][0] if sizes else 10.0
        self.leading = _leading(lines, self.body)
        large = sorted({line.size for line in lines if self._is_large(line)}, reverse=True)
        self.levels = {size: min(position + 1, 5) for position, size in enumerate(large)}

    def _is_large(self, line: Line) -> bool:
        return line.size >= 1.15 * self.body and len(line.text) <= 200 and any(c.isalpha() for c in line.text)

    def heading_level(self, line: Line) -> int:
        """A heading's level from 1; 0: body text. Bold lines of body size are the lowest headings."""
        if len(line.cells) > 1:
            return 0
        if self._is_large(line):
            return self.levels[line.size]
        short = line.bold and len(line.text) <= 80 and not line.text.endswith((".", ",", ";", ":"))
        return min(len(self.levels) + 1, 6) if short and any(c.isalpha() for c in line.text) else 0

    def continues(self, before: Line, line: Line) -> bool:
        """True when `line` goes on where `before` stopped."""
        gap = before.y - line.y
        return (
            before.page == line.page
            and 0 < gap <= 1.3 * self.leading * max(line.size / self.body, 1.0)
            and abs(before.size - line.size) < 0.6
        )

    def groups(self) -> Iterator[list[Line]]:
        """Lines that belong together: a heading, a list, a table or a paragraph."""
        group: list[Line] = []
        for line in self.lines:
            if group and not self._joins(group, line):
                yield group
                group = []
            group.append(line)
        if group:
            yield group

    def _joins(self, group: list[Line], line: Line) -> bool:
        before = group[-1]
        first = group[0]
        if first.is_item:
            close = before.page == line.page and 0 < before.y - line.y <= 2 * self.leading
            return close and (line.is_item or self.continues(before, line)) and not self.heading_level(line)
        if self._is_row(first) or self._is_row(line):
            near = before.page == line.page and 0 < before.y - line.y <= 2.5 * self.leading
            return near and len(first.cells) == len(line.cells) and not line.is_item
        same = self.heading_level(first) == self.heading_level(line)
        return same and not line.is_item and self.continues(before, line)

    @staticmethod
    def _is_row(line: Line) -> bool:
        return len(line.cells) > 1 and not line.is_item

    def block(self, group: list[Line]) -> Block | None:
        """The block of a group."""
        first = group[0]
        level = self.heading_level(first)
        if first.is_item:
            items: list[str] = []
            for line in group:
                if line.is_item:
                    items.append(line.text)
                else:
                    items[-1] = _join(items[-1], line.text)
            return bullet_list(items, first.page)
        if self._is_row(first):
            return table([line.cells for line in group], has_header=len(group) > 1, page=first.page)
        text = ""
        for line in group:
            text = _join(text, line.text)
        return heading(level, text, first.page) if level else paragraph(text, first.page)


def _join(text: str, line: str) -> str:
    """Joins two lines of a paragraph; a word broken at the line's end is made whole."""
    if _WORD_BREAK.search(text) and line[:1].islower():
        return text[:-1] + line
    return f"{text} {line}" if text else line


def layout(pages: Sequence[Page]) -> list[Block]:
    """Blocks of all pages in reading order (the order of the file), each with its page from 1."""
    lines = _without_furniture([list(_lines(page, number)) for number, page in enumerate(pages, start=1)])
    found = _Layout(lines)
    return [block for block in map(found.block, found.groups()) if block]
