"""Server-sent events (WHATWG HTML, 9.2), as far as the gateway uses them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """One event; `id` is None when the event sent none."""

    event: str
    data: str
    id: str | None


def parse(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Events out of a stream's lines. Comments are skipped; an event that the stream's end cuts off is dropped."""
    event, data, identifier = "", [], None
    for line in lines:
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
