"""Parses documents in a process of their own, so that a hostile file can neither hang nor kill the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from slipway_memory.errors import DOCUMENT_ERRORS, DocumentTooLarge, DocumentUnreadable
from slipway_memory.parsing.limits import ParseLimits

# A line is one chunk of at most 2000 characters with its headings, or the head.
_LONGEST_LINE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class DocumentHead:
    """What was recognised: media type, title ("" when the content has none), pages (0: no pages)."""

    content_type: str
    title: str
    page_count: int


@dataclass(frozen=True, slots=True)
class ParsedChunk:
    """A chunk as the parsing process hands it out; `context` are the headings to embed above the text."""

    text: str
    start: int
    end: int
    headings: tuple[str, ...]
    page: int
    context: str


class DocumentParser:
    """Starts one process a document, at most `concurrency` at a time."""

    def __init__(self, limits: ParseLimits, *, concurrency: int = 2) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(concurrency)

    async def parse(
        self, file: IO[bytes], *, filename: str, content_type: str
    ) -> tuple[DocumentHead, list[ParsedChunk]]:
        """Parses the whole of `file` (an open file with a descriptor).

        Raises one of `slipway_memory.errors`; a process that runs out of its limits is DocumentUnreadable.
        """
        async with self._slots:
            file.seek(0)
            try:
                async with asyncio.timeout(self._limits.seconds):
                    return await self._run(file, filename, content_type)
            except TimeoutError as error:
                raise DocumentUnreadable(
                    f"reading the document takes longer than {self._limits.seconds} s; split it, or check it"
                ) from error

    async def _run(self, file: IO[bytes], filename: str, content_type: str) -> tuple[DocumentHead, list[ParsedChunk]]:
        arguments = [filename, content_type, json.dumps(asdict(self._limits))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "slipway_memory.parsing.worker", *arguments),
            stdin=file,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # a traceback can quote the document
            env={"PYTHONUTF8": "1", "PYTHONHASHSEED": "0"},
            limit=_LONGEST_LINE,
        )
        try:
            lines = self._lines(cast("asyncio.StreamReader", process.stdout))
            head: DocumentHead | None = None
            chunks: list[ParsedChunk] = []
            async for line in lines:
                if isinstance(line, dict):
                    head = _head(cast("dict[str, Any]", line))
                else:
                    text, start, end, headings, page, context = cast("list[Any]", line)
                    chunks.append(ParsedChunk(text, start, end, tuple(headings), page, context))
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if code != 0 or head is None or not chunks:
            raise DocumentUnreadable(
                "the document can't be read within the limits of time and memory; split it, or check that it is whole"
            )
        return head, chunks

    async def _lines(self, stream: asyncio.StreamReader) -> AsyncIterator[object]:
        size = 0
        while line := await stream.readline():
            size += len(line)
            if size > self._limits.output_bytes:
                raise DocumentTooLarge("the document's chunks take more space than is allowed; split it")
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)


def _head(line: dict[str, Any]) -> DocumentHead:
    if "error" in line:
        raise DOCUMENT_ERRORS[line["error"]](line["message"], field="data")
    return DocumentHead(line["content_type"], line["title"], line["page_count"])
