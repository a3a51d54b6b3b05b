"""PDF to blocks: pypdf reads positioned text, `pdf_layout` makes lines, headings, lists and tables of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import IO, Any

from slipway_memory.parsing.blocks import BlockKind, ParsedDocument, clean_line
from slipway_memory.parsing.failure import ParseFailure, unreadable
from slipway_memory.parsing.pdf_layout import Page, Span, layout

_JUNK_TITLES = ("untitled", "microsoft word - ", "(anonymous)")


def _page(page: Any) -> Page:
    spans: list[Span] = []

    def visit(text: str, cm: Sequence[float], tm: Sequence[float], font: Any, size: float) -> None:
        if not text.strip():
            return
        # Position and size in page space: text matrix times current matrix (ISO 32000-1, 9.4.4).
        x = tm[4] * cm[0] + tm[5] * cm[2] + cm[4]
        y = tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        scale = abs(tm[3] * cm[3] + tm[2] * cm[1]) or 1.0
        name = str(font.get("/BaseFont", "")) if font else ""
        spans.append(Span(x, y, round(size * scale, 1), any(w in name for w in ("Bold", "Black", "Heavy")), text))

    page.extract_text(visitor_text=visit)
    return tuple(spans)


def parse_pdf(file: IO[bytes]) -> ParsedDocument:
    """A PDF with text. Its title is the document information's, else the first heading.

    Raises ParseFailure PDF_ENCRYPTED, PDF_HAS_NO_TEXT, DOCUMENT_UNREADABLE.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its warnings quote the document
    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = pypdf.PdfReader(file)
        # An empty user password is no protection against reading: everybody's viewer opens such a file.
        if reader.is_encrypted and not reader.decrypt(""):
            raise FileNotDecryptedError
        pages = [_page(page) for page in reader.pages]
        title = clean_line(str((reader.metadata or {}).get("/Title") or ""))
    except (FileNotDecryptedError, DependencyError) as error:
        raise ParseFailure("PDF_ENCRYPTED", "the PDF asks for a password; send it without one") from error
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # damaged files raise anything from pypdf
        raise unreadable("PDF", f"its structure is damaged ({type(error).__name__})") from error
    if not any(span.text.strip() for page in pages for span in page):
        raise ParseFailure(
            "PDF_HAS_NO_TEXT",
            f"the PDF's pages ({len(pages)}) hold no text: it seems to be scanned; run text recognition (OCR) on it",
        )
    blocks = layout(pages)
    if title.lower().startswith(_JUNK_TITLES):
        title = ""
    first = next((block.text for block in blocks if block.kind is BlockKind.HEADING and block.level == 1), "")
    return ParsedDocument(title or first, blocks, page_count=len(pages))
