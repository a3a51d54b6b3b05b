"""Reading typed fields out of a node, noting what is wrong with them."""

import re
from collections.abc import Collection
from decimal import Decimal, InvalidOperation

from slipway_orchestrator.definitions.problems import Problems
from slipway_orchestrator.definitions.source import Node

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
MAX_DURATION = 366 * 86400.0


class Fields:
    """The fields of one mapping. Unknown ones are noted when it is made."""

    def __init__(self, node: Node, problems: Problems, known: Collection[str]) -> None:
        self.node = node
        self._problems = problems
        self._content: dict[str, Node] = {}
        if not isinstance(node.content, dict):
            self.wrong(node, f"must be a mapping with {', '.join(known)}")
            return
        self._content = node.content
        for name, child in node.content.items():
            if name not in known:
                self.wrong(child, f"unknown field (known: {', '.join(known)})")

    def wrong(self, node: Node, message: str) -> None:
        """Note that a node is wrong."""
        self._problems.add(node.path, node.line, message)

    def get(self, name: str) -> Node | None:
        """The field; None when it is absent."""
        return self._content.get(name)

    def need(self, name: str) -> Node | None:
        """The field; its absence is noted."""
        found = self._content.get(name)
        if found is None:
            path = f"{self.node.path}.{name}" if self.node.path else name
            self._problems.add(path, self.node.line, "is missing")
        return found

    def text(self, name: str, *, required: bool = False, most: int = 100_000) -> str | None:
        """A string, not empty."""
        found = self.need(name) if required else self.get(name)
        if found is None:
            return None
        if not isinstance(found.content, str) or not found.content.strip():
            self.wrong(found, "must be a string that is not empty")
            return None
        if len(found.content) > most:
            self.wrong(found, f"must have at most {most} characters")
            return None
        return found.content

    def whole(self, name: str, least: int, most: int, *, required: bool = False) -> int | None:
        """A whole number within bounds."""
        found = self.need(name) if required else self.get(name)
        if found is None:
            return None
        value = found.content
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.wrong(found, f"must be a whole number from {least} to {most}")
            return None
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        """A number within bounds."""
        found = self.get(name)
        if found is None:
            return None
        value = found.content
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.wrong(found, f"must be a number from {least:g} to {most:g}")
            return None
        return float(value)

    def money(self, name: str) -> Decimal | None:
        """An amount in USD, required, not negative."""
        found = self.need(name)
        if found is None:
            return None
        value = found.content
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                amount = Decimal(str(value))
            except InvalidOperation:
                amount = Decimal(-1)
            if amount.is_finite() and 0 <= amount <= 1_000_000:
                return amount
        self.wrong(found, "must be an amount in USD from 0 to 1000000")
        return None

    def duration(self, name: str, *, required: bool = False, most: float = MAX_DURATION) -> float | None:
        """A time such as `500ms`, `30s`, `15m`, `2h`, `7d`, in seconds, more than 0."""
        found = self.need(name) if required else self.get(name)
        if found is None:
            return None
        match = _DURATION.fullmatch(found.content) if isinstance(found.content, str) else None
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not 0 < seconds <= most:
            self.wrong(found, f"must be a time such as 30s, 15m, 2h or 7d, at most {_in_words(most)}")
            return None
        return seconds

    def choice(self, name: str, options: Collection[str], default: str) -> str:
        """One of the options."""
        found = self.get(name)
        if found is None:
            return default
        if found.content not in options or not isinstance(found.content, str):
            self.wrong(found, f"must be one of {', '.join(options)}")
            return default
        return found.content

    def texts(self, name: str, *, required: bool = False) -> tuple[str, ...]:
        """A list of strings, not empty when it is there."""
        found = self.need(name) if required else self.get(name)
        if found is None:
            return ()
        if not isinstance(found.content, list) or not found.content:
            self.wrong(found, "must be a list that is not empty")
            return ()
        values: list[str] = []
        for item in found.content:
            if isinstance(item.content, str) and item.content:
                values.append(item.content)
            else:
                self.wrong(item, "must be a string that is not empty")
        return tuple(values)

    def string_map(self, name: str, most: int) -> dict[str, str]:
        """A mapping from strings to strings."""
        found = self.get(name)
        if found is None:
            return {}
        if not isinstance(found.content, dict) or len(found.content) > most:
            self.wrong(found, f"must be a mapping of at most {most} strings")
            return {}
        values: dict[str, str] = {}
        for key, item in found.content.items():
            if isinstance(item.content, str):
                values[key] = item.content
            else:
                self.wrong(item, "must be a string")
        return values


def _in_words(seconds: float) -> str:
    """A bound as it would be written in a definition: in the largest unit up to days that divides it."""
    unit = next(name for name in ("d", "h", "m", "s", "ms") if seconds % _UNITS[name] == 0)
    return f"{seconds / _UNITS[unit]:g}{unit}"
