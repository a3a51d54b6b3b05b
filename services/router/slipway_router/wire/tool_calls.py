"""Tool calls, held back until they are whole: half of one is no use to anybody, and a broken one does harm."""

import json
from collections.abc import Sequence
from typing import Any

from slipway_router.chat import JsonObject, ToolCall
from slipway_router.errors import MalformedToolCall

MAX_ARGUMENT_CHARACTERS = 1024 * 1024
MAX_CALLS = 128


def offered_names(tools: Sequence[JsonObject]) -> frozenset[str]:
    """Names of the functions that `tools` (OpenAI's array) declare."""
    functions = (tool.get("function") for tool in tools)
    return frozenset(str(function.get("name")) for function in functions if isinstance(function, dict))


class ToolCallAssembler:
    """Puts the fragments of a stream's tool calls together."""

    def __init__(self, offered: frozenset[str]) -> None:
        """`offered` are the names that the request declared."""
        self._offered = offered
        self._calls: dict[int, dict[str, str]] = {}

    def add(self, fragments: Any) -> None:
        """Take the `tool_calls` of one delta, or of a whole message; raises MalformedToolCall."""
        if not isinstance(fragments, list):
            raise MalformedToolCall("tool_calls is not an array")
        for position, fragment in enumerate(fragments):
            if not isinstance(fragment, dict):
                raise MalformedToolCall("a tool call is not an object")
            index = fragment.get("index", position)
            if not isinstance(index, int) or not 0 <= index < MAX_CALLS:
                raise MalformedToolCall(f"a tool call has the index {index!r}")
            call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
            function = fragment.get("function") or {}
            if not isinstance(function, dict):
                raise MalformedToolCall("the function of a tool call is not an object")
            # Id and name come once; some providers repeat them with every fragment.
            call["id"] = call["id"] or str(fragment.get("id") or "")
            call["name"] = call["name"] or str(function.get("name") or "")
            call["arguments"] += str(function.get("arguments") or "")
            if len(call["arguments"]) > MAX_ARGUMENT_CHARACTERS:
                raise MalformedToolCall(f"arguments of more than {MAX_ARGUMENT_CHARACTERS} characters")

    def finish(self) -> tuple[ToolCall, ...]:
        """The calls, in order; raises MalformedToolCall if one cannot be carried out."""
        return tuple(self._checked(index, call) for index, call in sorted(self._calls.items()))

    def _checked(self, index: int, call: dict[str, str]) -> ToolCall:
        name = call["name"]
        if name not in self._offered:
            raise MalformedToolCall(f"the model calls {name[:64]!r}, a tool that was not offered")
        # A function without parameters may be called without arguments.
        arguments = call["arguments"].strip() or "{}"
        try:
            parsed = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise MalformedToolCall(f"the arguments for {name} are not JSON") from error
        if not isinstance(parsed, dict):
            raise MalformedToolCall(f"the arguments for {name} are not a JSON object")
        return ToolCall(call["id"] or f"call_{index}", name, arguments)
