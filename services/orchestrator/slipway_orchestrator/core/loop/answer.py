"""The model's last word as the run's output."""

import json
from collections.abc import Callable, Mapping

from pydantic import JsonValue

Violations = Callable[[JsonValue], list[tuple[str, str]]]
"""What is wrong with a value under the output's schema: pairs of path and message."""


def is_text(schema: Mapping[str, JsonValue]) -> bool:
    """Whether the output is the text itself rather than JSON."""
    return schema.get("type") == "string"


def read(text: str, schema: Mapping[str, JsonValue], violations: Violations) -> tuple[JsonValue, str | None]:
    """The output, and what is wrong with it (None: nothing)."""
    value: JsonValue = text
    if not is_text(schema):
        try:
            value = json.loads(_without_fence(text))
        except (ValueError, RecursionError) as error:
            return None, f"it is no JSON: {error}"
    wrong = violations(value)
    if not wrong:
        return value, None
    return value, "; ".join(f"{path or 'the answer'}: {message}" for path, message in wrong[:5])


def _without_fence(text: str) -> str:
    """JSON is often put into a Markdown fence."""
    stripped = text.strip()
    if not (stripped.startswith("```") and stripped.endswith("```") and "\n" in stripped):
        return stripped
    return stripped.partition("\n")[2].removesuffix("```").strip()
