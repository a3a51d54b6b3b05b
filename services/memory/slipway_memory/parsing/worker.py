"""The parsing process: reads a document from standard input, writes one JSON object a line to standard output.

The first line describes the document, each further line is a chunk; or the only line is `{"error": …}`. It is started
by `sandbox.py` with limits, an empty environment and nothing but these two files open.
"""

from __future__ import annotations

import json
import sys
from typing import IO

from slipway_memory.parsing import recognise
from slipway_memory.parsing.blocks import ParsedDocument
from slipway_memory.parsing.chunking import Chunk, Chunker, normalised_text
from slipway_memory.parsing.encoding import decode
from slipway_memory.parsing.failure import ParseFailure, empty, unreadable
from slipway_memory.parsing.limits import ParseLimits, confine


def parse(file: IO[bytes], kind: str, declared: str) -> ParsedDocument:
    """Parses a document of a recognised type. Raises ParseFailure."""
    if kind == recognise.PDF:
        from slipway_memory.parsing.pdf import parse_pdf

        return parse_pdf(file)
    if kind == recognise.DOCX:
        from slipway_memory.parsing.docx import parse_docx

        return parse_docx(file)
    data = file.read()
    charset = recognise.declared_charset(declared)
    if kind == recognise.HTML:
        from slipway_memory.parsing.html import meta_charset, parse_html

        return parse_html(decode(data, charset or meta_charset(data))[0])
    text, _ = decode(data, charset)
    if kind == recognise.MARKDOWN:
        from slipway_memory.parsing.markdown import parse_markdown

        return parse_markdown(text)
    from slipway_memory.parsing.plain import parse_text

    return parse_text(text)


def _chunk_line(chunk: Chunk) -> str:
    fields = [chunk.text, chunk.start, chunk.end, list(chunk.headings), chunk.page, chunk.context]
    return json.dumps(fields, ensure_ascii=False)


def run(file: IO[bytes], output: IO[str], filename: str, declared: str, limits: ParseLimits) -> None:
    """Writes the answer for one document to `output`."""
    from slipway_memory.parsing.tokens import token_counter

    if not file.read(1):
        raise empty()
    file.seek(0)
    kind = recognise.recognise(file, filename, declared)
    document = parse(file, kind, declared)
    if not any(character.isalnum() for block in document.blocks for character in block.text):
        raise empty()
    length = len(normalised_text(document.blocks))
    if length > limits.text_characters:
        raise ParseFailure(
            "DOCUMENT_TOO_LARGE",
            f"the document has {length} characters of text, at most {limits.text_characters} are indexed; split it",
        )
    head = {"content_type": kind, "title": document.title[:500], "page_count": document.page_count}
    output.write(json.dumps(head, ensure_ascii=False) + "\n")
    for chunk in Chunker(token_counter()).chunks(document.blocks):
        output.write(_chunk_line(chunk) + "\n")


def main() -> None:
    """Entry point: arguments are file name, declared media type and the limits as JSON."""
    filename, declared, limits_json = sys.argv[1:4]
    limits = ParseLimits(**json.loads(limits_json))
    confine(limits)
    try:
        run(sys.stdin.buffer, sys.stdout, filename, declared, limits)
    except ParseFailure as failure:
        sys.stdout.write(json.dumps({"error": failure.reason, "message": failure.message}) + "\n")
    except (MemoryError, RecursionError):
        failure = unreadable("a document", "reading it takes more memory than is allowed")
        sys.stdout.write(json.dumps({"error": failure.reason, "message": failure.message}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
