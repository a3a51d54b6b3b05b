"""What a server says that a tool is, and how one definition differs from another."""

import difflib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slipway_chassis import jcs
from slipway_chassis.errors import SlipwayError

from slipway_tools import schema
from slipway_tools.tool import Declaration, McpSource, SideEffect

TOOLS_LIMIT = 256  # of one server
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_NAME_LIMIT = 64
_DESCRIPTION_LIMIT = 8 * 1024
_SHOWN = 200
_WORD = re.compile(r"\w+|\W")
# Letters and marks without a form of their own: joiners, fillers, vowels that are not written, the blank of Braille.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")


@dataclass(frozen=True)
class Definition:
    """A tool as its server offers it. Titles, annotations and icons are left out: nobody here reads them."""

    name: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None

    def content(self) -> dict[str, Any]:
        """What is pinned."""
        return {
            "name": self.name,
            "description": self.description,
            "inputSchema": self.input_schema,
            "outputSchema": self.output_schema,
        }

    @property
    def digest(self) -> str:
        """`sha256:` and hex digest of the canonical definition (RFC 8785).

        Raises:
            ValueError: it holds a number that has no canonical form.
        """
        return jcs.digest(self.content())

    def matches(self, digest: str) -> bool:
        """True when it is what was pinned, and so has no fault either."""
        try:
            return self.digest == digest
        except (SlipwayError, ValueError, RecursionError):
            return False

    def fault(self, server: str) -> str:
        """Why it can't be approved as a tool of `server`; empty: it can."""
        if len(tool_name(server, self.name)) > _NAME_LIMIT:
            return f"its name in here would be longer than {_NAME_LIMIT} characters"
        if not _NAME.fullmatch(self.name):
            return "the name must be 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-`, and not begin with a dot or dash"
        if len(self.description) > _DESCRIPTION_LIMIT:
            return f"the description is longer than {_DESCRIPTION_LIMIT} characters"
        try:
            _ = self.digest
            schema.parse_schema(json.dumps(self.input_schema), field="inputSchema", of_object=True)
            if self.output_schema is not None:
                schema.parse_schema(json.dumps(self.output_schema), field="outputSchema", of_object=False)
        except SlipwayError as error:
            return f"{error.field or 'a schema'} {error.message}"[:_SHOWN]
        except (ValueError, RecursionError):
            return "the schemas hold what is no strict JSON"
        return ""

    def declaration(
        self, server: str, connection_digest: str, *, approver: str, side_effect: SideEffect, regions: tuple[str, ...]
    ) -> Declaration:
        """The tool as it is called here, once `approver` pinned it."""
        return Declaration(
            name=tool_name(server, self.name),
            kind="mcp",
            description=self.description,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
            # MCP has no idempotency key: what only reads may be asked again.
            idempotent=side_effect == "read",
            regions=regions,
            side_effect=side_effect,
            untrusted_output=True,
            mcp=McpSource(server, self.name, self.digest, connection_digest, approver),
        )


def tool_name(server: str, name: str) -> str:
    """Name in the registry: whatever a server calls its tools, they can't be taken for another's."""
    return f"{server}.{name}"


def pinned(declaration: Declaration) -> Definition:
    """The definition that was approved."""
    assert declaration.mcp  # noqa: S101
    return Definition(
        declaration.mcp.tool, declaration.description, declaration.input_schema, declaration.output_schema
    )


def diff(before: Definition | None, after: Definition | None) -> str:
    """What changes, as a unified diff that shows invisible and right-to-left characters as escapes."""
    old, new = (_lines(definition.content()) if definition else [] for definition in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "approved", "offered", lineterm="", n=3))


def _lines(content: Mapping[str, Any]) -> list[str]:
    # ASCII only: what a person approves must look like what it is. Long texts are compared by line.
    lines: list[str] = []
    for key in ("name", "description"):
        first, *rest = str(content[key]).split("\n")
        lines += [f"{key}: {_visible(first)}", *(f"  {_visible(line)}" for line in rest)]
    for key in ("inputSchema", "outputSchema"):
        text = json.dumps(content[key], indent=2, sort_keys=True) if content[key] is not None else "any"
        lines += [f"{key}:", *(f"  {line}" for line in text.split("\n"))]
    return lines


def _visible(text: str) -> str:
    return _WORD.sub(lambda word: _plain(word.group()), text)


def _plain(word: str) -> str:
    """A word in which nothing hides. One that mixes alphabets shows its foreign letters as escapes."""
    mixed = len({_alphabet(character) for character in word if character.isalpha()}) > 1
    return "".join(
        character.encode("unicode_escape").decode()
        if _is_hidden(character) or (mixed and character.isalpha() and _alphabet(character) != "LATIN")
        else character
        for character in word
    )


def _alphabet(letter: str) -> str:
    return unicodedata.name(letter, "?").partition(" ")[0]


def _is_hidden(character: str) -> bool:
    """What prints as nothing, as a blank, or in the form of ASCII characters that it is not."""
    if character.isascii() and character.isprintable():
        return False
    blank = 0xE0000 <= ord(character) <= 0xE0FFF or 0xFE00 <= ord(character) <= 0xFE0F or character in _BLANK
    return blank or not character.isprintable() or unicodedata.normalize("NFKC", character).isascii()
