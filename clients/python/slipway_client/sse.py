"""Server-sent events (WHATWG HTML, 9.2), as far as the gateway uses them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# The only line ends of the format. `str.splitlines` knows more of them, which may stand inside JSON text.
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")


@dataclass(frozen=True)
class ServerSentEvent:
    """One event; `id` is None when the event sent none."""

    event: str
    data: str
    id: str | None


def parse(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Events out of a stream's bytes. Comments are skipped; an event that the stream's end cuts off is dropped."""
    event, data, identifier = "", [], None
    for line in _lines(chunks):
        if not line:
            if data:
                yield ServerSentEvent(event or "message", "\n".join(data), identifier)
            event, data, identifier = "", [], None
            continue
        if line.startswith(":"):
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id":
            identifier = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines; bytes after the last line end are dropped with the stream."""
    rest = b""
    for chunk in chunks:
        # A carriage return at the end of a chunk may be the first half of a line end: it waits for the next chunk.
        *whole, rest = _LINE_END.split(rest + chunk)
        for line in whole:
            yield line.decode("utf-8", errors="replace")
