"""Bytes to text, strictly: a byte that is not text in the encoding found refuses the document."""

from __future__ import annotations

import codecs

from slipway_memory.parsing.failure import ParseFailure

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Mess ratio of charset-normalizer above which its guess is no better than chance.
_HIGHEST_CHAOS = 0.1


def _strict(data: bytes, encoding: str, how: str) -> str:
    try:
        return data.decode(encoding)
    except LookupError as error:
        raise ParseFailure("ENCODING_UNKNOWN", f"the encoding {encoding} ({how}) is not known; send UTF-8") from error
    except UnicodeDecodeError as error:
        byte = data[error.start : error.start + 1].hex()
        raise ParseFailure(
            "ENCODING_UNKNOWN",
            f"the text is {encoding} ({how}), but the byte 0x{byte} at offset {error.start} is not valid in it; "
            "send UTF-8, or declare the charset it is in",
        ) from error


def _is_broken_utf8(data: bytes) -> bool:
    """True when most of the bytes above ASCII form UTF-8: then it is UTF-8 with damage, not another encoding."""
    text = data.decode("utf-8", errors="replace")
    damaged = text.count("\ufffd")
    whole = sum(1 for character in text if character > "\x7f") - damaged
    return whole > damaged


def decode(data: bytes, declared: str = "") -> tuple[str, str]:
    """Returns (text, encoding). Order: byte order mark, declared charset, UTF-8, then charset-normalizer's guess.

    Raises ParseFailure ENCODING_UNKNOWN naming the encoding that was found.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _strict(data, encoding, "by its byte order mark"), encoding
    if declared:
        return _strict(data, declared, "as declared"), declared.lower()
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        if _is_broken_utf8(data):
            return _strict(data, "utf-8", "as found"), "utf-8"
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None or best.chaos > _HIGHEST_CHAOS:
        found = f"; the nearest is {best.encoding}" if best else ""
        raise ParseFailure(
            "ENCODING_UNKNOWN", f"the bytes are neither UTF-8 nor clearly another encoding{found}; send UTF-8"
        )
    return _strict(data, best.encoding, "as found"), best.encoding
