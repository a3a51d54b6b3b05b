"""Uploads as multipart/form-data, passed on while they arrive: no file is ever whole in memory.

The form's text fields come before its file (as HTML forms, curl and HTTP libraries send them when they are listed
so), because what describes the file must be known before its first byte can be passed on.
"""

import re
from collections import deque
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from slipway_chassis.errors import InvalidArgument

from slipway_gateway.http.bodies import BoundedReceive
from slipway_gateway.http.guard import BODY_SCOPE_KEY
from slipway_gateway.http.rejections import BodyTooLarge, HttpMalformed, MediaTypeUnsupported

PART_BYTES: Final = 64 * 1024
MAX_FIELD_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 32
# What the form itself may add to the file: boundaries, headers, fields.
FORM_BYTES: Final = 1024 * 1024

_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(\s*;.*)?")


@dataclass(frozen=True, slots=True)
class UploadHead:
    """What is known of an upload before its bytes. `fields` holds all values of each text field."""

    filename: str
    content_type: str
    fields: Mapping[str, tuple[str, ...]]


@dataclass(slots=True)
class _Part:
    headers: dict[str, str]
    name: str = ""
    filename: str | None = None


class Upload:
    """One upload: `head()` first, then `parts()`."""

    def __init__(self, request: Request, *, fields: Collection[str], max_bytes: int) -> None:
        """`fields` are the names of text fields that the form may have, beside `file`."""
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise MediaTypeUnsupported("send the file as multipart/form-data", field="Content-Type")
        bounded = cast(BoundedReceive, request.scope[BODY_SCOPE_KEY])
        bounded.limit = max_bytes + FORM_BYTES
        bounded.check_declared()
        self._body = request.stream().__aiter__()
        self._allowed = frozenset(fields)
        self._max_bytes = max_bytes
        self._parts: deque[_Part | bytes | None] = deque()
        self._part = _Part({})
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        callbacks: Any = {
            "on_part_begin": self._on_part_begin,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
        }
        self._parser = MultipartParser(boundary, callbacks)

    async def head(self) -> UploadHead:
        """Reads up to the file's first byte. Raises InvalidArgument, HttpMalformed, BodyTooLarge."""
        fields: dict[str, tuple[str, ...]] = {}
        while (part := await self._next_part()) is not None:
            if part.filename is not None:
                if part.name != "file":
                    raise InvalidArgument("the file must be the form's field `file`", field=part.name or "file")
                return UploadHead(part.filename, _content_type(part.headers.get("content-type", "")), fields)
            if part.name not in self._allowed:
                raise InvalidArgument("the form has no such field", field=part.name[:64] or "file")
            value = await self._text(part.name)
            fields[part.name] = (*fields.get(part.name, ()), value)
            if sum(len(values) for values in fields.values()) > MAX_FIELDS:
                raise InvalidArgument(f"the form has more than {MAX_FIELDS} fields", field=part.name)
        raise InvalidArgument("the form has no file: send it as the field `file`", field="file")

    async def parts(self) -> AsyncGenerator[bytes]:
        """The file's bytes in parts of at most 64 KiB. Raises BodyTooLarge, and InvalidArgument for what follows it."""
        total, buffer = 0, bytearray()
        while (item := await self._next()) is not None:
            if not isinstance(item, bytes):
                raise HttpMalformed("the form's parts overlap")
            total += len(item)
            if total > self._max_bytes:
                raise BodyTooLarge(
                    f"the file is larger than {self._max_bytes} bytes",
                    field="file",
                    metadata={"limit_bytes": str(self._max_bytes)},
                )
            buffer += item
            while len(buffer) >= PART_BYTES:
                yield bytes(buffer[:PART_BYTES])
                del buffer[:PART_BYTES]
        # Before the last part: what is refused must not look like a whole upload to the service.
        following = await self._next_part()
        if following is not None:
            raise InvalidArgument("the file must be the form's last field", field=following.name[:64] or "file")
        if buffer or not total:
            yield bytes(buffer)

    async def _text(self, name: str) -> str:
        value = bytearray()
        while (item := await self._next()) is not None:
            if not isinstance(item, bytes):
                raise HttpMalformed("the form's parts overlap")
            value += item
            if len(value) > MAX_FIELD_BYTES:
                raise InvalidArgument(f"the field is longer than {MAX_FIELD_BYTES} bytes", field=name)
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidArgument("the field is not UTF-8", field=name) from None
        if "\x00" in text:
            raise InvalidArgument("the field holds U+0000", field=name)
        return text

    async def _next_part(self) -> _Part | None:
        """The next part's description; None at the end of the form."""
        while self._parts or await self._read():
            item = self._parts.popleft() if self._parts else None
            if isinstance(item, _Part):
                return item
        return None

    async def _next(self) -> _Part | bytes | None:
        """The next piece of the current part; None at its end."""
        while not self._parts:
            if not await self._read():
                raise HttpMalformed("the form ends in the middle of a part")
        return self._parts.popleft()

    async def _read(self) -> bool:
        """Feeds the parser; False at the end of the body."""
        try:
            chunk = await anext(self._body, None)
            if chunk is None:
                return False
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise HttpMalformed(f"the form is malformed: {error}") from None
        return True

    def _on_part_begin(self) -> None:
        self._part = _Part({})
        self._header = (bytearray(), bytearray())

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _on_header_end(self) -> None:
        name, value = self._header
        self._part.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._part.headers.get("content-disposition", ""))
        if disposition == b"form-data":
            self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
            if b"filename" in options:
                self._part.filename = options[b"filename"].decode("utf-8", "replace")
        self._parts.append(self._part)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._parts.append(bytes(data[start:end]))

    def _on_part_end(self) -> None:
        self._parts.append(None)


def _content_type(declared: str) -> str:
    return declared if len(declared) <= 200 and _MEDIA_TYPE.fullmatch(declared) else ""
