"""Recognising, decoding and parsing documents."""

from __future__ import annotations

import io
import zipfile

import docx
import pytest
from slipway_memory.parsing import recognise
from slipway_memory.parsing.blocks import BlockKind
from slipway_memory.parsing.docx import parse_docx
from slipway_memory.parsing.encoding import decode
from slipway_memory.parsing.failure import ParseFailure
from slipway_memory.parsing.html import meta_charset, parse_html
from slipway_memory.parsing.markdown import parse_markdown
from slipway_memory.parsing.pdf_layout import Span, layout
from slipway_memory.parsing.plain import parse_text

GERMAN = (
    "Die Rückgabe ist innerhalb von dreißig Tagen möglich. Die Gebühr beträgt zwölf Euro und wird später erstattet, "
    "wenn die Ware unbeschädigt ist. Für größere Bestellungen gilt eine längere Frist."
)


def docx_file(build) -> io.BytesIO:
    document = docx.Document()
    build(document)
    file = io.BytesIO()
    document.save(file)
    file.seek(0)
    return file


def texts(document) -> list[tuple[BlockKind, str]]:
    return [(block.kind, block.text) for block in document.blocks]


@pytest.mark.parametrize(
    ("data", "filename", "declared", "expected"),
    [
        (b"%PDF-1.7\n", "x.pdf", "application/pdf", recognise.PDF),
        (b"junk before %PDF-1.4", "", "", recognise.PDF),
        (b"<!DOCTYPE html><p>hi", "", "", recognise.HTML),
        (b"\n<!-- c --><html><p>hi", "page", "application/octet-stream", recognise.HTML),
        (b"<p>fragment", "x.html", "", recognise.HTML),
        (b"# Title\ntext", "", "", recognise.MARKDOWN),
        (b"# comment\ntext", "notes.txt", "text/plain", recognise.TEXT),
        (b"just text", "x.md", "text/plain", recognise.MARKDOWN),
        (b"just text", "", "text/markdown; charset=utf-8", recognise.MARKDOWN),
        (b"a,b\n1,2", "", "text/csv", recognise.TEXT),
        ("naïve".encode("utf-16"), "x.txt", "", recognise.TEXT),
    ],
)
def test_the_type_is_told_by_content_then_name_then_declaration(data, filename, declared, expected):
    file = io.BytesIO(data)
    assert recognise.recognise(file, filename, declared) == expected
    assert file.tell() == 0


def test_a_docx_is_told_by_what_is_in_the_archive():
    assert recognise.recognise(docx_file(lambda d: d.add_paragraph("x")), "", "") == recognise.DOCX


@pytest.mark.parametrize(
    ("data", "filename", "declared", "reason"),
    [
        (b"plain text", "x.pdf", "", "DOCUMENT_TYPE_MISMATCH"),
        (b"plain text", "", recognise.DOCX, "DOCUMENT_TYPE_MISMATCH"),
        (b"%PDF-1.7\n", "x.md", "", "DOCUMENT_TYPE_MISMATCH"),
        (b"%PDF-1.7\n", "x.pdf", "text/html", "DOCUMENT_TYPE_MISMATCH"),
        (b"\x89PNG\r\n\x1a\n....", "x.png", "", "DOCUMENT_TYPE_UNSUPPORTED"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "x.doc", "", "DOCUMENT_TYPE_UNSUPPORTED"),
        (b"text\x00with nul", "x.txt", "", "DOCUMENT_TYPE_UNSUPPORTED"),
        (b"data", "x", "application/vnd.ms-excel", "DOCUMENT_TYPE_UNSUPPORTED"),
        (b"PK\x03\x04broken", "x.docx", "", "DOCUMENT_UNREADABLE"),
    ],
)
def test_what_is_not_what_it_says_or_has_no_parser_is_refused(data, filename, declared, reason):
    with pytest.raises(ParseFailure) as refused:
        recognise.recognise(io.BytesIO(data), filename, declared)
    assert refused.value.reason == reason


def test_a_spreadsheet_is_named_in_the_refusal():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    with pytest.raises(ParseFailure, match="a spreadsheet"):
        recognise.recognise(io.BytesIO(file.getvalue()), "x.xlsx", "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_in_a_known_encoding_is_read_right(encoding):
    text, _ = decode(GERMAN.encode(encoding))
    assert text == GERMAN


def test_a_declared_charset_counts():
    assert decode("Привет".encode("koi8-r"), "koi8-r")[0] == "Привет"


@pytest.mark.parametrize(
    ("data", "declared", "words"),
    [
        (GERMAN.encode("cp1252"), "utf-8", "utf-8 .*as declared.* 0xfc at offset"),
        (GERMAN.encode() + b"\xff and more", "", "utf-8 .*0xff at offset"),
        (b"\xff\xfea\x00b", "", "utf-16 .*byte order mark"),
        (b"text", "klingon-1", "klingon-1 .*not known"),
        (bytes(range(128, 256)) * 3, "", "UTF-8"),
    ],
)
def test_bytes_that_are_not_text_in_their_encoding_are_refused_by_its_name(data, declared, words):
    with pytest.raises(ParseFailure, match=words) as refused:
        decode(data, declared)
    assert refused.value.reason == "ENCODING_UNKNOWN"


def test_markdown_keeps_lists_tables_and_code_and_drops_markup():
    document = parse_markdown(
        "---\ntitle: 'From front matter'\n---\n# A *b* `c`\n\ntext [link](http://x) ![alt](y)\nsame line\n\n"
        "- one\n- two\n  1. inner\n\n| K | V |\n|---|---|\n| a | 1 |\n\n```py\nx = 1\n\ny = 2\n```\n\n"
        "<b>bold</b> <script>no</script>\n"
    )
    assert document.title == "From front matter"
    assert texts(document) == [
        (BlockKind.HEADING, "A b c"),
        (BlockKind.PARAGRAPH, "text link alt same line"),
        (BlockKind.LIST, "- one\n- two\n1. inner"),
        (BlockKind.TABLE, "K: a | V: 1"),
        (BlockKind.CODE, "x = 1\n\ny = 2"),
        (BlockKind.PARAGRAPH, "bold no"),
    ]


def test_html_keeps_structure_and_drops_scripts_and_navigation():
    document = parse_html(
        "<html><head><title>T &amp; U</title><style>p{}</style></head><body><nav>menu</nav>"
        "<h1>Head</h1>loose <b>text</b>"
        "<div>in a div<p>a<br>b</p></div><ol><li>x<ul><li>y</li></ul></li><li>z</li></ol>"
        "<table><tr><th>K</th><th>V</th></tr><tr><td>a</td><td>1</td></tr></table><pre>x = 1\n  y</pre>"
        "<script>evil()</script><img alt='a picture'></body></html>"
    )
    assert document.title == "T & U"
    assert texts(document) == [
        (BlockKind.HEADING, "Head"),
        (BlockKind.PARAGRAPH, "loose text"),
        (BlockKind.PARAGRAPH, "in a div"),
        (BlockKind.PARAGRAPH, "a\nb"),
        (BlockKind.LIST, "1. x\n- y\n2. z"),
        (BlockKind.TABLE, "K: a | V: 1"),
        (BlockKind.CODE, "x = 1\n  y"),
        (BlockKind.PARAGRAPH, "a picture"),
    ]


def test_html_says_its_charset():
    assert meta_charset(b"<head><meta charset='iso-8859-15'>") == "iso-8859-15"
    assert meta_charset(b'<meta http-equiv="Content-Type" content="text/html; charset=koi8-r">') == "koi8-r"
    assert meta_charset(b"<p>no</p>") == ""


def test_docx_keeps_title_headings_lists_tables_and_their_order():
    def build(document):
        document.add_heading("The handbook", 0)
        document.add_heading("Refunds", 1)
        document.add_paragraph("Within thirty days.")
        document.add_paragraph("one", style="List Bullet")
        document.add_paragraph("two", style="List Bullet")
        table = document.add_table(2, 2)
        for cell, text in zip(
            [c for row in table.rows for c in row.cells], ["Plan", "Price", "Basic", "10"], strict=True
        ):
            cell.text = text
        document.add_heading("Shipping", 2)
        document.add_paragraph("Next day.")

    document = parse_docx(docx_file(build))
    assert document.title == "The handbook"
    assert texts(document) == [
        (BlockKind.HEADING, "The handbook"),
        (BlockKind.HEADING, "Refunds"),
        (BlockKind.PARAGRAPH, "Within thirty days."),
        (BlockKind.LIST, "- one\n- two"),
        (BlockKind.TABLE, "Plan: Basic | Price: 10"),
        (BlockKind.HEADING, "Shipping"),
        (BlockKind.PARAGRAPH, "Next day."),
    ]
    assert [block.level for block in document.blocks if block.kind is BlockKind.HEADING] == [0, 1, 2]


def test_plain_text_is_paragraphs_and_lists():
    assert texts(parse_text("one\r\nline\r\n\r\n- a\r\n- b\r\n\r\nlast")) == [
        (BlockKind.PARAGRAPH, "one\nline"),
        (BlockKind.LIST, "- a\n- b"),
        (BlockKind.PARAGRAPH, "last"),
    ]


def lines(*rows: tuple[float, float, str], x: float = 70, bold: bool = False) -> list[Span]:
    return [Span(x, y, size, bold, text + "\n") for y, size, text in rows]


def test_pdf_lines_become_headings_paragraphs_and_lists_by_size_and_distance():
    page = [
        *lines((800, 18, "Title of it")),
        *lines((770, 10, "A paragraph with an exam-"), (758, 10, "ple in two lines."), (738, 10, "Another paragraph.")),
        *lines((710, 14, "Second level")),
        *lines((690, 10, "• first point that"), (678, 10, "goes on"), (664, 10, "• second point")),
        Span(70, 640, 10, False, "Plan\n"),
        Span(170, 640, 10, False, "Price\n"),
        Span(70, 626, 10, False, "Basic\n"),
        Span(170, 626, 10, False, "10 EUR\n"),
    ]
    blocks = layout([page])
    assert [(block.kind, block.level, block.text) for block in blocks] == [
        (BlockKind.HEADING, 1, "Title of it"),
        (BlockKind.PARAGRAPH, 0, "A paragraph with an example in two lines."),
        (BlockKind.PARAGRAPH, 0, "Another paragraph."),
        (BlockKind.HEADING, 2, "Second level"),
        (BlockKind.LIST, 0, "• first point that goes on\n• second point"),
        (BlockKind.TABLE, 0, "Plan: Basic | Price: 10 EUR"),
    ]


def test_running_heads_and_page_numbers_of_a_pdf_are_dropped():
    pages = [
        [
            *lines((820, 8, "Acme Handbook")),
            *lines((700, 10, f"Text of page {n}, long enough.")),
            *lines((30, 8, f"Page {n}")),
        ]
        for n in range(1, 6)
    ]
    assert [(block.page, block.text) for block in layout(pages)] == [
        (n, f"Text of page {n}, long enough.") for n in range(1, 6)
    ]
