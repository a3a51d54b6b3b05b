"""Tokens of CEL, as far as finding names, strings and brackets needs them.

Grammar: https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax. The library compiles expressions but
shows no syntax tree, so names and paths are read from the tokens.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["name", "string", "number", "sign"]

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<string>
        [rR]?[bB]?(?:\"\"\".*?\"\"\"|'''.*?''')
      | (?:[rR][bB]?|[bB][rR])(?:"[^"\n]*"|'[^'\n]*')
      | [bB]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    )
  | (?P<number>0[xX][0-9a-fA-F]+u?|[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|[0-9]+u?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>&&|\|\||[<>=!]=|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token and where it stands."""

    kind: Kind
    text: str
    start: int
    end: int


def tokenize(text: str, start: int = 0) -> Iterator[Token]:
    """The tokens of `text` from `start` on, blanks and comments left out. Never fails: CEL's own parser judges."""
    for match in _TOKEN.finditer(text, start):
        kind = match.lastgroup
        if kind in ("name", "string", "number", "sign"):
            yield Token(kind, match.group(), match.start(), match.end())


def string_value(token: Token) -> str | None:
    """The value of a plain string literal; None for raw, bytes and escaped ones."""
    text = token.text
    if len(text) >= 2 and text[0] in "\"'" and not text.startswith(('"""', "'''")) and "\\" not in text:
        return text[1:-1]
    return None
