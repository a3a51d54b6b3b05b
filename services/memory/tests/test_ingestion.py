"""Documents of every kind, from their bytes to passages that cite them; and bad ones, refused with a reason."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import AsyncIterator

import docx
import pypdf
import pytest
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate
from slipway.memory.v1 import memory_pb2 as pb
from slipway_chassis.errors import ErrorKind, RemoteError

MARKDOWN = """# Handbook

## Refunds
Customers may return goods within thirty days of delivery and get their money back.

## Shipping
Parcels leave the warehouse on the day after the order. Express parcels leave on the same day before noon.
"""


def pdf(*pages: tuple[str, str], title: str = "Employee guide") -> bytes:
    style = getSampleStyleSheet()
    file = io.BytesIO()
    story = []
    for heading, text in pages:
        story += [Paragraph(heading, style["Heading1"]), Paragraph(text, style["BodyText"]), PageBreak()]
    SimpleDocTemplate(file, title=title).build(story)
    return file.getvalue()


def scanned_pdf() -> bytes:
    file = io.BytesIO()
    canvas = Canvas(file)
    canvas.rect(50, 50, 400, 600, fill=1)
    canvas.showPage()
    canvas.save()
    return file.getvalue()


def encrypted_pdf(password: str, owner: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(("Secret", "The vault opens at nine in the morning."))))
    writer.encrypt(password, owner, algorithm="AES-256")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def docx_bytes() -> bytes:
    document = docx.Document()
    document.add_heading("Travel policy", 0)
    document.add_heading("Trains", 1)
    document.add_paragraph("Second class is booked for journeys of up to four hours.")
    document.add_heading("Flights", 1)
    document.add_paragraph("Economy class is booked for flights inside Europe.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<w:p/>" * 40_000_000)
    return file.getvalue()


async def refusal(call) -> RemoteError:
    with pytest.raises(RemoteError) as refused:
        await call
    return refused.value


async def test_a_markdown_document_is_searchable_and_cites_its_heading(alice, router):
    await alice.collection()
    document = await alice.add(MARKDOWN, filename="handbook.md")
    assert (document.title, document.content_type) == ("Handbook", "text/markdown")
    assert document.indexed_chunk_count == document.chunk_count == 2
    best, *_ = await alice.search("how long do I have to send something back?")
    assert list(best.headings) == ["Handbook", "Refunds"]
    assert best.text.startswith("Customers may return goods within thirty days")
    assert best.document_digest == document.digest
    assert {one["sub"] for one in router.callers} == {"service:memory"}
    assert {one["tenant"] for one in router.callers} == {alice.tenant}
    request = pb.GetCollectionRequest(collection="handbook")
    collection = (await alice.call(alice.knowledge.GetCollection, request)).collection
    assert (collection.document_count, collection.chunk_count) == (1, 2)
    assert collection.embedding_model == "minilm-l6-v2"


async def test_a_sentence_of_a_pdf_is_cited_by_page_and_heading(alice):
    await alice.collection()
    data = pdf(
        ("Holidays", "Every employee has thirty days of paid holiday a year. " * 3),
        ("Sickness", "A doctor's note is needed from the third day of sickness on. " * 3),
        ("Equipment", "Laptops are replaced every three years. " * 3),
    )
    document = await alice.add(data, filename="guide.pdf", content_type="application/pdf")
    assert (document.title, document.content_type, document.page_count) == ("Employee guide", "application/pdf", 3)
    best, *_ = await alice.search("when must I hand in a medical certificate?")
    assert (best.page, list(best.headings)) == (2, ["Sickness"])
    assert "doctor's note is needed from the third day" in best.text


async def test_html_and_docx_are_cited_by_their_headings(alice):
    await alice.collection()
    html = "<html><title>Opening hours</title><h1>Shop</h1><p>Open from nine to six.</p><h2>Sundays</h2><p>Closed.</p>"
    assert (await alice.add(html, "hours", filename="hours.html")).title == "Opening hours"
    found = await alice.add(docx_bytes(), "travel", filename="travel.docx")
    assert (found.title, found.page_count) == ("Travel policy", 0)
    best, *_ = await alice.search("which class may I fly?")
    assert (best.document, list(best.headings), best.page) == ("travel", ["Travel policy", "Flights"], 0)
    best, *_ = await alice.search("Sundays")
    assert (best.document, list(best.headings)) == ("hours", ["Shop", "Sundays"])


async def test_text_that_is_not_utf_8_is_read_in_its_encoding(alice):
    await alice.collection()
    text = "Die Rückgabe ist innerhalb von dreißig Tagen möglich, und die Gebühr beträgt zwölf Euro. " * 3
    await alice.add(text.encode("cp1252"), filename="recht.txt")
    best, *_ = await alice.search("Rückgabe")
    assert "dreißig Tagen möglich" in best.text


async def test_a_pdf_that_anybody_may_open_is_read_though_it_is_encrypted(alice):
    await alice.collection()
    await alice.add(encrypted_pdf("", "owner"), filename="open.pdf")
    assert "vault opens at nine" in (await alice.search("vault"))[0].text


@pytest.mark.parametrize(
    ("data", "fields", "reason", "words"),
    [
        (b"", {}, "DOCUMENT_EMPTY", "no bytes"),
        (b" \n\t ", {"filename": "x.txt"}, "DOCUMENT_EMPTY", "no text"),
        (b"---\n***\n", {"filename": "x.md"}, "DOCUMENT_EMPTY", "no text"),
        (b"<html><script>x()</script>", {"filename": "x.html"}, "DOCUMENT_EMPTY", "no text"),
        (scanned_pdf(), {"filename": "x.pdf"}, "PDF_HAS_NO_TEXT", "OCR"),
        (encrypted_pdf("secret", "owner"), {"filename": "x.pdf"}, "PDF_ENCRYPTED", "password"),
        (pdf(("A", "b"))[:-700], {"filename": "x.pdf"}, "DOCUMENT_UNREADABLE", "PDF"),
        (b"%PDF-1.7\n" + os.urandom(5000), {"filename": "x.pdf"}, "DOCUMENT_UNREADABLE", "PDF"),
        (docx_bytes()[:5000], {"filename": "x.docx"}, "DOCUMENT_UNREADABLE", "docx"),
        ("naïve".encode("cp1252"), {"content_type": "text/plain; charset=utf-8"}, "ENCODING_UNKNOWN", "utf-8"),
        (b"# x", {"filename": "x.pdf"}, "DOCUMENT_TYPE_MISMATCH", ".pdf"),
        (b"\x89PNG\r\n\x1a\n", {"filename": "x.png"}, "DOCUMENT_TYPE_UNSUPPORTED", "PNG"),
        (b"MZ\x90\x00\x03", {}, "DOCUMENT_TYPE_UNSUPPORTED", "program"),
        (zip_bomb(), {"filename": "x.docx"}, "DOCUMENT_TOO_LARGE", "unpacks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_document_is_refused_with_its_reason_and_the_collection_stays_as_it_was(
    alice, memory, data, fields, reason, words
):
    await alice.collection()
    await alice.add(MARKDOWN, filename="handbook.md")
    before = sorted(memory.objects.rglob("*"))
    for document in ("doc", "other"):
        error = await refusal(alice.put(data, document, **fields))
        assert (error.reason, words in error.message) == (reason, True), error.message
        wanted = ErrorKind.RESOURCE_EXHAUSTED if reason == "DOCUMENT_TOO_LARGE" else ErrorKind.INVALID_ARGUMENT
        assert error.kind is wanted
        assert error.field == "data"
    assert (await refusal(alice.document("other"))).reason == "DOCUMENT_NOT_FOUND"
    assert (await alice.document()).state == pb.DOCUMENT_STATE_READY
    assert (await alice.search("refunds"))[0].document == "doc"
    assert sorted(memory.objects.rglob("*")) == before


async def test_an_upload_of_200_mb_is_refused_while_it_streams_and_nothing_is_kept(alice, memory):
    await alice.collection()
    before = sorted(memory.objects.rglob("*"))

    async def endless() -> AsyncIterator[pb.PutDocumentRequest]:
        yield pb.PutDocumentRequest(description=pb.DocumentDescription(collection="handbook", document="big"))
        for _ in range(200 * 16):
            yield pb.PutDocumentRequest(data=b"x" * 65536)

    error = await refusal(alice.call(alice.knowledge.PutDocument, endless(), 60))
    assert (error.reason, error.metadata["limit_bytes"]) == ("DOCUMENT_TOO_LARGE", str(64 * 1024 * 1024))
    assert sorted(memory.objects.rglob("*")) == before
    assert (await refusal(alice.document("big"))).reason == "DOCUMENT_NOT_FOUND"


async def test_a_document_that_would_take_too_long_or_too_much_memory_is_given_up_and_the_service_goes_on(
    start_memory, new_database, new_client, router
):
    memory = start_memory(new_database(), parse_seconds=2, parse_memory_mib=400, document_text=2_000_000)
    alice = new_client(memory)
    await alice.collection()
    deep = b"<html><body>" + b"<div>" * 300_000 + b"x"
    assert (await refusal(alice.put(deep, filename="deep.html"))).reason == "DOCUMENT_UNREADABLE"
    wide = b"<html><body>" + b"<p>word</p>" * 4_000_000
    assert (await refusal(alice.put(wide, filename="wide.html"))).reason == "DOCUMENT_UNREADABLE"
    error = await refusal(alice.put(b"word " * 500_000, filename="long.txt"))
    assert error.reason == "DOCUMENT_TOO_LARGE"
    assert "2000000" in error.message
    assert (await alice.add(MARKDOWN, filename="handbook.md")).state == pb.DOCUMENT_STATE_READY
    assert memory.process.popen.poll() is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"document": "a/b"}, "document"),
        ({"document": ""}, "document"),
        ({"readers": ["alice"]}, "readers[0]"),
        ({"metadata": {str(n): "x" for n in range(33)}}, "metadata"),
        ({"filename": "x" * 201}, "filename"),
        ({"title": "a\nb"}, "title"),
        ({"collection": "No Such"}, "collection"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_wrong_description_names_the_field(alice, fields, field):
    await alice.collection()
    error = await refusal(alice.put(b"text", **{"document": "doc", **fields}))
    assert (error.kind, error.field) == (ErrorKind.INVALID_ARGUMENT, field)


async def test_an_upload_has_one_description_and_then_an_end_that_tells_its_size(alice):
    await alice.collection()
    description = pb.PutDocumentRequest(description=pb.DocumentDescription(collection="handbook", document="d"))

    async def parts(*requests: pb.PutDocumentRequest) -> AsyncIterator[pb.PutDocumentRequest]:
        for request in requests:
            yield request

    data = pb.PutDocumentRequest(data=b"text")
    wrong_end = pb.PutDocumentRequest(end=pb.UploadEnd(size_bytes=5))
    for wrong in (
        (),
        (data,),
        (description, description),
        (description, data, pb.PutDocumentRequest()),
        # Cut off: what a caller that gives up half-way leaves.
        (description, data),
        (description, data, wrong_end),
    ):
        error = await refusal(alice.call(alice.knowledge.PutDocument, parts(*wrong)))
        assert error.reason == "UPLOAD_INVALID"
