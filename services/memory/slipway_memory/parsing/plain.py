"""Plain text: paragraphs are separated by blank lines, list items by their marks."""

from __future__ import annotations

import re

from slipway_memory.parsing.blocks import Block, ParsedDocument, bullet_list, paragraph

_BLANK = re.compile(r"\n[^\S\n]*\n+")
_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+\S")


def text_blocks(text: str, page: int = 0) -> list[Block]:
    """Blocks of running text: a part whose lines all carry a list mark is a list, others are paragraphs."""
    blocks: list[Block] = []
    for part in _BLANK.split(text):
        lines = [line for line in part.split("\n") if line.strip()]
        is_list = len(lines) > 1 and all(_ITEM.match(line) for line in lines)
        block = bullet_list(lines, page) if is_list else paragraph("\n".join(lines), page)
        if block:
            blocks.append(block)
    return blocks


def parse_text(text: str) -> ParsedDocument:
    """A text file; it has no title of its own."""
    return ParsedDocument("", text_blocks(text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")))
