"""Markdown (CommonMark with tables and strikethrough) to blocks. Front matter gives the title and is left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from slipway_memory.parsing import html
from slipway_memory.parsing.blocks import Block, BlockKind, ParsedDocument, bullet_list, code, heading, paragraph, table

_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.S)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.*?)[\"']?\s*$", re.M)


def _inline(token: Token) -> str:
    parts: list[str] = []
    for child in token.children or ():
        if child.type in ("text", "code_inline", "text_special", "image"):
            parts.append(child.content)
        elif child.type == "softbreak":
            parts.append(" ")
        elif child.type == "hardbreak":
            parts.append("\n")
    return "".join(parts)


class _ListItems:
    """Collects the items of a list and of the lists in it, each with its mark and indent."""

    def __init__(self) -> None:
        self.items: list[str] = []
        self.numbers: list[int | None] = []

    def open(self, token: Token) -> None:
        start = token.attrGet("start")
        self.numbers.append(int(start or 1) if token.type == "ordered_list_open" else None)

    def next_item(self) -> None:
        number = self.numbers[-1]
        self.items.append("- " if number is None else f"{number}. ")
        if number is not None:
            self.numbers[-1] = number + 1

    def add(self, text: str) -> None:
        mark = self.items[-1]
        self.items[-1] = mark + text if mark.endswith(("- ", ". ")) else f"{mark} {text}"


def _rows(tokens: Sequence[Token]) -> list[list[str]]:
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append(_inline(token))
    return rows


def _closing(tokens: Sequence[Token], start: int) -> int:
    """Index of the token that closes the one at `start`."""
    wanted = tokens[start].type.replace("_open", "_close")
    level = tokens[start].level
    for position in range(start + 1, len(tokens)):
        if tokens[position].type == wanted and tokens[position].level == level:
            return position
    return len(tokens) - 1


def _list_blocks(tokens: Sequence[Token]) -> list[Block | None]:
    """A list as one block; code and tables in it stand as blocks of their own between its parts."""
    blocks: list[Block | None] = []
    items = _ListItems()
    for token in tokens:
        if token.type in ("bullet_list_open", "ordered_list_open"):
            items.open(token)
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            items.numbers.pop()
        elif token.type == "list_item_open":
            items.next_item()
        elif token.type == "inline" and items.items:
            items.add(_inline(token))
        elif token.type in ("fence", "code_block"):
            blocks += [bullet_list(items.items), code(token.content)]
            items.items = [""]
    blocks.append(bullet_list(items.items))
    return blocks


def _blocks(tokens: Sequence[Token]) -> list[Block | None]:
    blocks: list[Block | None] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token.type == "heading_open":
            blocks.append(heading(int(token.tag[1:]), _inline(tokens[position + 1])))
            position += 2
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            end = _closing(tokens, position)
            blocks += _list_blocks(tokens[position : end + 1])
            position = end
        elif token.type == "table_open":
            end = _closing(tokens, position)
            blocks.append(table(_rows(tokens[position:end]), has_header=True))
            position = end
        elif token.type in ("fence", "code_block"):
            blocks.append(code(token.content))
        elif token.type == "html_block":
            blocks += html.fragment_blocks(token.content)
        elif token.type == "inline":
            blocks.append(paragraph(_inline(token)))
        position += 1
    return blocks


def parse_markdown(text: str) -> ParsedDocument:
    """A Markdown text. Its title is the front matter's, else the first heading of level 1."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    front = _FRONT_MATTER.match(text)
    front_title = _FRONT_TITLE.search(front.group(1)) if front else None
    body = text[front.end() :] if front else text
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)
    blocks = [block for block in _blocks(tokens) if block]
    first = next((block.text for block in blocks if block.kind is BlockKind.HEADING and block.level == 1), "")
    return ParsedDocument(front_title.group(1) if front_title else first, blocks)
