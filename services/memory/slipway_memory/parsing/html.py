"""HTML to blocks: lexbor's HTML5 tree, walked without recursion so that deep nesting costs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from slipway_memory.parsing.blocks import (
    Block,
    BlockKind,
    ParsedDocument,
    bullet_list,
    clean_line,
    code,
    heading,
    paragraph,
    table,
)

_SKIPPED = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "nav",
        "svg",
        "iframe",
        "object",
        "canvas",
        "form",
        "button",
        "select",
        "textarea",
        "head",
        "dialog",
    ]
)
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "img",
        "ins",
        "kbd",
        "label",
        "mark",
        "q",
        "s",
        "samp",
        "small",
        "span",
        "strong",
        "sub",
        "sup",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
        "-text",
    ]
)
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]+)", re.I)
_SPACE = re.compile(r"\s+")


def meta_charset(data: bytes) -> str:
    """The charset that the document declares in its first 1024 bytes; "" when it declares none."""
    match = _CHARSET.search(data[:1024])
    return match.group(1).decode("ascii") if match else ""


def _text(node: LexborNode) -> str:
    """The text below a node, white space as HTML sees it, `br` as a line break, scripts left out."""
    parts: list[str] = []
    for child in node.traverse(include_text=True):
        if child.tag == "-text":
            parent = child.parent
            if parent is None or parent.tag not in _SKIPPED:
                parts.append(_SPACE.sub(" ", child.text_content or ""))
        elif child.tag == "br":
            parts.append("\n")
        elif child.tag == "img":
            parts.append(child.attributes.get("alt") or "")
        elif child.tag not in _INLINE:
            parts.append(" ")
    return "".join(parts)


def _rows(node: LexborNode) -> tuple[list[list[str]], bool]:
    rows: list[list[str]] = []
    has_header = False
    for row in node.css("tr"):
        cells = [cell for cell in row.iter() if cell.tag in ("td", "th")]
        if not rows:
            has_header = bool(cells) and all(cell.tag == "th" for cell in cells)
        rows.append([clean_line(_text(cell)) for cell in cells])
    return rows, has_header


def _items(node: LexborNode) -> list[str]:
    """Items of a list, those of nested lists after their parent."""
    items: list[str] = []
    numbers: dict[int, int] = {}
    for item in node.css("li"):
        parent = item.parent
        mark = "- "
        if parent is not None and parent.tag == "ol":
            numbers[parent.mem_id] = numbers.get(parent.mem_id, 0) + 1
            mark = f"{numbers[parent.mem_id]}. "
        own = "".join(
            _text(child) if child.tag != "-text" else _SPACE.sub(" ", child.text_content or "")
            for child in item.iter(include_text=True)
            if child.tag not in ("ul", "ol")
        )
        items.append(mark + clean_line(own))
    return items


@dataclass
class _Walk:
    """Walks a tree in document order; loose inline content between blocks becomes paragraphs."""

    blocks: list[Block | None] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)

    def flush(self) -> None:
        if self.inline:
            self.blocks.append(paragraph("".join(self.inline)))
            self.inline.clear()

    def walk(self, root: LexborNode) -> None:
        # Entries are nodes still to visit, None: the end of a block element.
        pending: list[LexborNode | None] = [root]
        while pending:
            node = pending.pop()
            if node is None:
                self.flush()
                continue
            if not self._leaf(node):
                if node.tag not in _INLINE:
                    self.flush()
                    pending.append(None)
                pending.extend(reversed(list(node.iter(include_text=True))))
        self.flush()

    def _leaf(self, node: LexborNode) -> bool:
        """Takes a node that is not to be descended into; False for others."""
        tag = node.tag or ""
        if tag == "-text":
            self.inline.append(_SPACE.sub(" ", node.text_content or ""))
        elif tag == "br":
            self.inline.append("\n")
        elif tag == "img":
            self.inline.append(node.attributes.get("alt") or "")
        elif tag in _SKIPPED or tag.startswith(("-", "_")):
            pass
        elif tag in _HEADINGS:
            self._add(heading(_HEADINGS[tag], _text(node)))
        elif tag == "p":
            self._add(paragraph(_text(node)))
        elif tag == "pre":
            self._add(code(node.text(deep=True)))
        elif tag in ("ul", "ol"):
            self._add(bullet_list(_items(node)))
        elif tag == "table":
            rows, has_header = _rows(node)
            self._add(table(rows, has_header=has_header))
        else:
            return False
        return True

    def _add(self, block: Block | None) -> None:
        self.flush()
        self.blocks.append(block)


def fragment_blocks(text: str) -> list[Block]:
    """Blocks of a piece of HTML."""
    body = LexborHTMLParser(text).body
    if body is None:
        return []
    walk = _Walk()
    walk.walk(body)
    return [block for block in walk.blocks if block]


def parse_html(text: str) -> ParsedDocument:
    """An HTML document. Its title is the `title` element's, else the first `h1`."""
    node = LexborHTMLParser(text).css_first("title")
    blocks = fragment_blocks(text)
    first = next((block.text for block in blocks if block.kind is BlockKind.HEADING and block.level == 1), "")
    return ParsedDocument(clean_line(node.text(deep=True)) if node is not None else first, blocks)
