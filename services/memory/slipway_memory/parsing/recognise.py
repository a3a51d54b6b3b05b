"""Recognises a document's type: by content first, then by the file's name and the declared media type."""

from __future__ import annotations

import re
import zipfile
from pathlib import PurePosixPath
from typing import IO

from slipway_memory.parsing.failure import ParseFailure, unreadable

MARKDOWN = "text/markdown"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
TEXT = "text/plain"

SUPPORTED = "Markdown, HTML, PDF, docx and plain text"

_EXTENSIONS = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".pdf": PDF,
    ".docx": DOCX,
    ".txt": TEXT,
    ".text": TEXT,
}
_DECLARED = {
    "text/markdown": MARKDOWN,
    "text/x-markdown": MARKDOWN,
    "text/html": HTML,
    "application/xhtml+xml": HTML,
    "application/pdf": PDF,
    "application/x-pdf": PDF,
    DOCX: DOCX,
    "text/plain": TEXT,
}
_ANY = {"", "application/octet-stream", "binary/octet-stream"}
_MAGIC = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office file of the old format or an encrypted one"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"{\\rtf", "a rich text file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
)
_TEXT_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_HTML_START = re.compile(
    rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_MARKDOWN_LINE = re.compile(rb"^(?:#{1,6} \S|```|~~~)", re.M)


def _unsupported(what: str) -> ParseFailure:
    return ParseFailure("DOCUMENT_TYPE_UNSUPPORTED", f"the file is {what}; {SUPPORTED} can be indexed")


def media_type(declared: str) -> str:
    """The media type without its parameters, lower-case."""
    return declared.split(";", maxsplit=1)[0].strip().lower()


def declared_charset(declared: str) -> str:
    """The `charset` parameter of a media type; "" without one."""
    match = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", declared, re.I)
    return match.group(1) if match else ""


def _zip_type(file: IO[bytes]) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise unreadable("docx", "the archive is damaged") from error
    finally:
        file.seek(0)
    if "word/document.xml" in names:
        return DOCX
    if "xl/workbook.xml" in names:
        raise _unsupported("a spreadsheet")
    if "ppt/presentation.xml" in names:
        raise _unsupported("a presentation")
    raise _unsupported("a zip archive")


def _by_content(file: IO[bytes], head: bytes) -> str | None:
    """The type that the content alone tells; None: some text."""
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_type(file)
    for magic, what in _MAGIC:
        if head.startswith(magic):
            raise _unsupported(what)
    if b"\x00" in head and not head.startswith(_TEXT_BOMS):
        raise _unsupported("binary")
    return None


def _hint(filename: str, declared: str) -> tuple[str, str]:
    """What name and declaration say: (type, where it is said); ("", "") when they say nothing."""
    extension = PurePosixPath(filename).suffix.lower()
    if extension in _EXTENSIONS:
        return _EXTENSIONS[extension], f"the file name ends in {extension}"
    wanted = media_type(declared)
    if wanted in _ANY:
        return "", ""
    if wanted in _DECLARED:
        return _DECLARED[wanted], f"the declared type is {wanted}"
    if wanted.startswith("text/"):
        return TEXT, f"the declared type is {wanted}"
    raise _unsupported(f"declared as {wanted}")


def recognise(file: IO[bytes], filename: str, declared: str) -> str:
    """Returns one of the media types above and leaves `file` at its start.

    Raises ParseFailure: DOCUMENT_TYPE_UNSUPPORTED, DOCUMENT_TYPE_MISMATCH, DOCUMENT_UNREADABLE.
    """
    head = file.read(65536)
    file.seek(0)
    found = _by_content(file, head)
    hint, source = _hint(filename, declared)
    if found is None and hint in (PDF, DOCX):
        raise ParseFailure("DOCUMENT_TYPE_MISMATCH", f"{source}, but the content is text; send the file as what it is")
    if found is not None:
        declared_type = _DECLARED.get(media_type(declared), found)
        for said, where in ((hint, source), (declared_type, f"the declared type is {declared_type}")):
            if said and said != found:
                raise ParseFailure(
                    "DOCUMENT_TYPE_MISMATCH", f"{where}, but the content is {found}; send the file as what it is"
                )
        return found
    if hint:
        return hint
    if _HTML_START.match(head):
        return HTML
    return MARKDOWN if _MARKDOWN_LINE.search(head) else TEXT
