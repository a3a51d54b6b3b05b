"""Which names an expression uses, as paths: `steps.answer.output.text`, `input.items[0]`."""

from dataclasses import dataclass
from itertools import pairwise

from slipway_orchestrator.expressions.tokens import Token, string_value, tokenize

COMPREHENSIONS = frozenset({"all", "exists", "exists_one", "existsOne", "map", "filter"})
FUNCTIONS = COMPREHENSIONS | {
    "has", "size", "contains", "startsWith", "endsWith", "matches",
    "string", "int", "uint", "double", "bytes", "duration", "timestamp", "type", "dyn",
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear",
    "getHours", "getMinutes", "getSeconds", "getMilliseconds",
}  # fmt: skip
"""What expressions may call, as a function or on a value: macros and functions of the CEL library."""
_KEYWORDS = frozenset({"true", "false", "null", "in"})

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class References:
    """What the tokens of an expression tell."""

    paths: tuple[Path, ...]
    """Paths that begin with a free name."""
    comprehensions: int
    """Calls of comprehension macros."""
    nesting: int
    """How deep they stand in one another."""
    whole: bool
    """The expression is one path and nothing else."""
    functions: tuple[str, ...]
    """Names that are called."""


def references(expression: str) -> References:
    """The free names of an expression with the members that follow them."""
    tokens = list(tokenize(expression))
    paths: list[Path] = []
    count = deepest = 0
    scopes: list[str | None] = []
    """One for each open bracket: the variable that a comprehension binds in it."""
    whole_end = -1
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token.kind == "sign" and token.text in "([{":
            scopes.append(None)
        elif token.kind == "sign" and token.text in ")]}" and scopes:
            scopes.pop()
        elif token.kind == "name" and _text(tokens, position - 1) == ".":
            bound = _bound_variable(tokens, position)
            if bound is not None:
                scopes.append(bound)
                count += 1
                deepest = max(deepest, sum(scope is not None for scope in scopes))
                position += 1
        elif token.kind == "name" and token.text not in _KEYWORDS and _text(tokens, position + 1) != "(":
            end, path = _path(tokens, position)
            if token.text not in scopes:
                paths.append(path)
            if position == 0:
                whole_end = end
            position = end
            continue
        position += 1
    called = tuple(
        token.text
        for token, following in pairwise(tokens)
        if token.kind == "name" and token.text not in _KEYWORDS and following.text == "("
    )
    return References(tuple(paths), count, deepest, whole_end == len(tokens) and bool(tokens), called)


def _text(tokens: list[Token], position: int) -> str:
    return tokens[position].text if 0 <= position < len(tokens) else ""


def _bound_variable(tokens: list[Token], position: int) -> str | None:
    """The variable of the comprehension macro at `position`, if there is one."""
    if tokens[position].text not in COMPREHENSIONS or _text(tokens, position + 1) != "(":
        return None
    if _text(tokens, position + 3) == "," and tokens[position + 2].kind == "name":
        return tokens[position + 2].text
    return None


def _path(tokens: list[Token], position: int) -> tuple[int, Path]:
    """The path that begins at `position`, and the position after it."""
    path: list[str | int] = [tokens[position].text]
    position += 1
    while position < len(tokens):
        if tokens[position].text == "." and position + 1 < len(tokens) and tokens[position + 1].kind == "name":
            if _text(tokens, position + 2) == "(":
                break
            path.append(tokens[position + 1].text)
            position += 2
        elif tokens[position].text == "[" and _text(tokens, position + 2) == "]":
            key = tokens[position + 1]
            literal = string_value(key) if key.kind == "string" else None
            if literal is not None:
                path.append(literal)
            elif key.kind == "number" and key.text.isdecimal():
                path.append(int(key.text))
            else:
                break
            position += 3
        else:
            break
    return position, tuple(path)
