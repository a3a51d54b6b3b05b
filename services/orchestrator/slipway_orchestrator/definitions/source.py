"""A definition's text as values that know their path and line."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from slipway_orchestrator.definitions.problems import Problems

_PREFIX = "tag:yaml.org,2002:"
_MAX_DEPTH = 80
_DEEPEST = 300
"""Levels at which the parser gives up: it takes long over more."""
Content = None | bool | int | float | str | list["Node"] | dict[str, "Node"]


@dataclass(frozen=True, slots=True)
class Node:
    """A value of the definition."""

    content: Content
    path: str
    line: int
    """From 1; 0 when it was not read from text."""

    def plain(self) -> JsonValue:
        """The value without paths and lines."""
        if isinstance(self.content, list):
            return [item.plain() for item in self.content]
        if isinstance(self.content, dict):
            return {name: item.plain() for name, item in self.content.items()}
        return self.content

    def at(self, path: str) -> "Node":
        """The node at a path below this one (`a.b[2]`), or the nearest one above it that exists."""
        for child in self._children():
            rest = path.removeprefix(child.path.removeprefix(self.path).lstrip("."))
            if rest != path and (not rest or rest[0] in ".["):
                return child.at(rest.lstrip(".")) if rest else child
        return self

    def _children(self) -> "Iterator[Node]":
        if isinstance(self.content, list):
            yield from self.content
        elif isinstance(self.content, dict):
            yield from self.content.values()


def read_yaml(text: str, problems: Problems) -> Node | None:
    """Parse YAML 1.2 (JSON is a subset). Anchors, aliases, tags and duplicate keys are problems; None: unreadable."""
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = _DEEPEST
    try:
        root = yaml.compose(text)
    except (MaxDepthExceededError, RecursionError):
        problems.add("", 1, "is nested too deeply")
        return None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add("", mark.line + 1 if mark else 1, f"is no YAML: {error.problem or error.context}")
        return None
    except (YAMLError, ValueError) as error:
        problems.add("", 1, f"is no YAML: {error}")
        return None
    if root is None:
        problems.add("", 1, "is empty")
        return None
    return _Reader(problems).read(root, "", 0)


def from_json(value: JsonValue, path: str = "") -> Node:
    """A node of a JSON value, for definitions that were stored."""
    if isinstance(value, list):
        return Node([from_json(item, f"{path}[{index}]") for index, item in enumerate(value)], path, 0)
    if isinstance(value, dict):
        return Node({name: from_json(item, _join(path, name)) for name, item in value.items()}, path, 0)
    return Node(value, path, 0)


class _Reader:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._seen: set[int] = set()

    def read(self, node: object, path: str, depth: int) -> Node:
        line = cast(ScalarNode, node).start_mark.line + 1
        if getattr(node, "anchor", None) or id(node) in self._seen:
            self._problems.add(path, line, "anchors and aliases are not allowed: write the value out")
            return Node(None, path, line)
        self._seen.add(id(node))
        if depth > _MAX_DEPTH:
            self._problems.add(path, line, f"is nested deeper than {_MAX_DEPTH} levels")
            return Node(None, path, line)
        if isinstance(node, SequenceNode):
            items = [self.read(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(node.value)]
            return Node(items, path, line)
        if isinstance(node, MappingNode):
            return Node(self._mapping(node, path, depth), path, line)
        return Node(self._scalar(cast(ScalarNode, node), path, line), path, line)

    def _mapping(self, node: MappingNode, path: str, depth: int) -> dict[str, Node]:
        content: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode):
                self._problems.add(path, line, "keys must be plain strings")
                continue
            name = str(key.value)
            if name in content:
                self._problems.add(_join(path, name), line, "stands here twice")
                continue
            content[name] = self.read(value, _join(path, name), depth + 1)
        return content

    def _scalar(self, node: ScalarNode, path: str, line: int) -> bool | int | float | str | None:
        text = str(node.value)
        match str(node.tag).removeprefix(_PREFIX):
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return self._number(text, path, line, whole=True)
            case "float":
                return self._number(text, path, line, whole=False)
            case "str" | "timestamp":
                return text
            case tag:
                self._problems.add(path, line, f"the tag {tag} is not allowed")
                return None

    def _number(self, text: str, path: str, line: int, *, whole: bool) -> int | float | None:
        try:
            number = int(text.replace("_", ""), 0) if whole else float(text.replace("_", ""))
        except ValueError:
            try:
                number = int(text)  # leading zeros
            except ValueError:
                self._problems.add(path, line, f"{text} is not a finite number")
                return None
        if not abs(number) <= 2**53:
            self._problems.add(path, line, f"{text} is no number that JSON keeps exactly (at most 2^53)")
            return None
        return number


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
