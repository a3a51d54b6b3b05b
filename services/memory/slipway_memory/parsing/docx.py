"""Word documents (docx) to blocks. The archive's unpacked size is bounded before anything is unpacked."""

from __future__ import annotations

import re
import zipfile
from typing import IO, TYPE_CHECKING

from slipway_memory.parsing.blocks import Block, BlockKind, ParsedDocument, bullet_list, code, heading, paragraph, table
from slipway_memory.parsing.failure import ParseFailure, unreadable

if TYPE_CHECKING:
    from docx.table import Table
    from docx.text.paragraph import Paragraph

_HIGHEST_UNPACKED = 256 * 1024 * 1024
_HIGHEST_ENTRIES = 10_000
# XML packs about 10 : 1 and up to 50 : 1 in long tables; a bomb packs more than 1000 : 1.
_HIGHEST_RATIO = 200
_HEADING = re.compile(r"^heading (\d)$", re.I)


def check_archive(file: IO[bytes]) -> None:
    """Refuses archives that unpack to much more than they are. zipfile never unpacks more than an entry declares.

    Raises ParseFailure DOCUMENT_TOO_LARGE or DOCUMENT_UNREADABLE.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise unreadable("docx", "the archive is damaged") from error
    finally:
        file.seek(0)
    if any(entry.flag_bits & 0x1 for entry in entries):
        raise unreadable("docx", "the archive is encrypted")
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > _HIGHEST_UNPACKED or len(entries) > _HIGHEST_ENTRIES:
        raise ParseFailure(
            "DOCUMENT_TOO_LARGE",
            f"the docx archive unpacks to {unpacked} bytes in {len(entries)} entries; "
            f"at most {_HIGHEST_UNPACKED} bytes in {_HIGHEST_ENTRIES} entries are read",
        )
    if unpacked > 1024 * 1024 and unpacked > _HIGHEST_RATIO * max(packed, 1):
        raise ParseFailure(
            "DOCUMENT_TOO_LARGE", f"the docx archive unpacks to more than {_HIGHEST_RATIO} times its size"
        )


def _style(item: Paragraph) -> str:
    style = item.style
    return (style.name or "") if style is not None else ""


def _is_list_item(item: Paragraph, style: str) -> bool:
    properties = item._p.pPr  # pyright: ignore[reportPrivateUsage]  # numbering has no public accessor
    return style.lower().startswith("list") or (properties is not None and properties.numPr is not None)


def _table_block(item: Table) -> Block | None:
    rows: list[list[str]] = []
    for row in item.rows:
        cells: list[str] = []
        previous = None
        for cell in row.cells:
            # A merged cell stands once for every column that it spans.
            if cell._tc is not previous:  # pyright: ignore[reportPrivateUsage]
                cells.append(cell.text)
            previous = cell._tc  # pyright: ignore[reportPrivateUsage]
        rows.append(cells)
    return table(rows, has_header=len(rows) > 1)


class _Blocks:
    """Gathers runs of list items and of code lines into one block each."""

    def __init__(self) -> None:
        self.blocks: list[Block | None] = []
        self._run: list[str] = []
        self._run_kind = BlockKind.PARAGRAPH
        self.title = ""

    def flush(self) -> None:
        if self._run:
            self.blocks.append(
                bullet_list(self._run) if self._run_kind is BlockKind.LIST else code("\n".join(self._run))
            )
            self._run = []

    def _extend(self, kind: BlockKind, text: str) -> None:
        if self._run_kind is not kind:
            self.flush()
        self._run_kind = kind
        self._run.append(text)

    def add(self, item: Paragraph) -> None:
        style = _style(item)
        text = item.text
        level = _HEADING.match(style)
        if "code" in style.lower() or style in ("HTML Preformatted", "Macro Text"):
            self._extend(BlockKind.CODE, text)
        elif _is_list_item(item, style) and not level:
            if text.strip():
                self._extend(BlockKind.LIST, f"- {text}")
        else:
            self.flush()
            if style == "Title":
                self.title = self.title or text.strip()
                self.blocks.append(heading(0, text))  # above all numbered headings
            else:
                self.blocks.append(heading(int(level.group(1)), text) if level else paragraph(text))


def parse_docx(file: IO[bytes]) -> ParsedDocument:
    """A docx document: body paragraphs and tables in order. Its title is the `Title` paragraph, else the core property,
    else the first heading of level 1.
    """
    check_archive(file)
    import docx
    from docx.text.paragraph import Paragraph

    try:
        document = docx.Document(file)
    except Exception as error:  # python-docx raises KeyError, ValueError, lxml's errors for damaged files
        raise unreadable("docx", "its parts are damaged or missing") from error
    gathered = _Blocks()
    for item in document.iter_inner_content():
        if isinstance(item, Paragraph):
            gathered.add(item)
        else:
            gathered.flush()
            gathered.blocks.append(_table_block(item))
    gathered.flush()
    blocks = [block for block in gathered.blocks if block]
    first = next((block.text for block in blocks if block.kind is BlockKind.HEADING and block.level == 1), "")
    return ParsedDocument(gathered.title or document.core_properties.title.strip() or first, blocks)
