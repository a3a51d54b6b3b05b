"""`${…}` in strings. A string that is one whole `${…}` keeps its value's type; elsewhere the value becomes text."""

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from slipway_orchestrator.expressions.tokens import tokenize


@dataclass(frozen=True, slots=True)
class Expression:
    """What stands in one `${…}`."""

    source: str


Part = str | Expression


class UnclosedTemplate(ValueError):
    """A `${` without its `}`."""

    def __init__(self) -> None:
        super().__init__("`${` is not closed by `}`; a literal `${` is written `$${`")


def parse(text: str) -> tuple[Part, ...]:
    """The parts of a template. `$${` is a literal `${`. Raises UnclosedTemplate."""
    parts: list[Part] = []
    literal = ""
    position = 0
    while (opened := text.find("${", position)) >= 0:
        if opened > position and text[opened - 1] == "$":
            literal += text[position : opened - 1] + "${"
            position = opened + 2
            continue
        literal += text[position:opened]
        if literal:
            parts.append(literal)
            literal = ""
        closed = _closing_brace(text, opened + 2)
        parts.append(Expression(text[opened + 2 : closed].strip()))
        position = closed + 1
    literal += text[position:]
    if literal:
        parts.append(literal)
    return tuple(parts)


def _closing_brace(text: str, start: int) -> int:
    depth = 0
    for token in tokenize(text, start):
        if token.text == "{":
            depth += 1
        elif token.text == "}":
            if depth == 0:
                return token.start
            depth -= 1
    raise UnclosedTemplate


def expressions(value: JsonValue, path: str = "") -> Iterator[tuple[str, str]]:
    """The expressions in a JSON value, each with the path to its string below `path`. Raises UnclosedTemplate."""
    if isinstance(value, str):
        for part in parse(value):
            if isinstance(part, Expression):
                yield path, part.source
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from expressions(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from expressions(item, f"{path}.{name}" if path else name)


def has_expressions(value: JsonValue) -> bool:
    """Whether a JSON value holds a template, be it a broken one."""
    try:
        return any(True for _ in expressions(value))
    except UnclosedTemplate:
        return True


async def render(value: JsonValue, evaluate: Callable[[str], Awaitable[JsonValue]]) -> JsonValue:
    """The JSON value with its templates filled in."""
    if isinstance(value, str):
        return await _render_text(value, evaluate)
    if isinstance(value, list):
        return [await render(item, evaluate) for item in value]
    if isinstance(value, dict):
        return {name: await render(item, evaluate) for name, item in value.items()}
    return value


async def _render_text(text: str, evaluate: Callable[[str], Awaitable[JsonValue]]) -> JsonValue:
    parts = parse(text)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return await evaluate(parts[0].source)
    rendered = [part if isinstance(part, str) else as_text(await evaluate(part.source)) for part in parts]
    return "".join(rendered)


def as_text(value: JsonValue) -> str:
    """A value within a text: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
